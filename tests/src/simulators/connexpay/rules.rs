//! The switches of simulated ConnexPay: where its documents leave a choice open, both sides can be played.

use serde::{Deserialize, Serialize};

/// One device: the merchant key of every money call. Its account decides the currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub guid: String,
    /// What searches want to know; devices that share it share a processor account.
    pub merchant_guid: String,
    pub name: String,
    /// ISO 4217.
    pub currency: String,
}

impl Device {
    pub fn new(guid: &str, merchant_guid: &str, name: &str, currency: &str) -> Self {
        Self {
            guid: guid.into(),
            merchant_guid: merchant_guid.into(),
            name: name.into(),
            currency: currency.into(),
        }
    }
}

/// In which form a card's refusal is answered; the published material shows both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclineForm {
    /// `422` with `Error code …` in the message, and no id.
    #[default]
    Unprocessable,
    /// `200` with the status `Transaction - Declined`.
    Success,
}

/// What a sequence number that was seen before means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SequenceRule {
    /// Nothing: the API reference promises no uniqueness.
    #[default]
    Free,
    /// A refusal D0001, D0003 or D0009, by what became of the first.
    Unique,
    /// The same data within 30 minutes gets the first result again, other data is refused (newer documents).
    Replay,
}

/// The shape of search results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// `{"count":…,"ret":[…]}`
    #[default]
    Count,
    /// `{"pageCurrent":…,"searchResultDTO":[…]}`
    Pages,
}

/// Everything that can be switched. The default is what the API reference says, strict where it is silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Rules {
    pub username: String,
    pub password: String,
    pub devices: Vec<Device>,
    /// How long an access token really lives.
    pub token_lifetime_s: u64,
    /// What `expires_in` claims; the truth when absent.
    pub token_expires_in_s: Option<u64>,
    /// What access tokens begin with, so that a test can look for them.
    pub token_prefix: String,
    /// A new token kills the one before.
    pub single_token: bool,
    pub decline_form: DeclineForm,
    pub sequence: SequenceRule,
    /// Refuses the same amount on the same card within this time (D0008); 0 is off.
    pub duplicate_window_s: u64,
    /// How long an authorization cannot be captured or voided yet.
    pub authorization_ready_after_ms: u64,
    /// Batches close by themselves this long after their first transaction; never when absent.
    pub batch_close_after_s: Option<u64>,
    /// How long a transaction stays invisible to searches. `GET` by id always sees it.
    pub search_lag_ms: u64,
    pub search_envelope: Envelope,
    /// Whether `NewAmount` of a capture counts; else the whole authorization is captured (newer documents).
    pub partial_capture: bool,
    /// Whether a sale needs `RiskData` and `ConnexPayTransaction`.
    pub risk_data_required: bool,
    /// Whether a timeout reversal also reaches an authorization.
    pub reversal_reaches_authorizations: bool,
    /// Whether several returns of one sale are capped in sum. The reference speaks of the original amount only.
    pub returns_capped_in_sum: bool,
}

/// The device of the samples, in US dollars.
pub const DEVICE_USD: &str = "8ec1c40b-0c00-4a57-a9c7-7800bd52c308";
/// The merchant of the samples, who owns [`DEVICE_USD`].
pub const MERCHANT_USD: &str = "19344275-985e-4dff-81ee-cb84b8ad356c";
pub const DEVICE_EUR: &str = "8f65764d-72c1-4dee-ac9f-4cd4c98e8c35";
pub const MERCHANT_EUR: &str = "41b4b6e1-03bc-45cf-9568-3da832930fb3";
pub const DEVICE_GBP: &str = "80fa8f43-701e-441a-959b-1b597b22a0d5";
pub const MERCHANT_GBP: &str = "4aa19b68-910e-4e27-b62d-260235935fcd";
pub const USERNAME: &str = "apiuser";
pub const PASSWORD: &str = "sandbox";

impl Default for Rules {
    fn default() -> Self {
        Self {
            username: USERNAME.into(),
            password: PASSWORD.into(),
            devices: vec![
                Device::new(DEVICE_USD, MERCHANT_USD, "Terminal 1", "USD"),
                Device::new(DEVICE_EUR, MERCHANT_EUR, "Terminal 2", "EUR"),
                Device::new(DEVICE_GBP, MERCHANT_GBP, "Terminal 3", "GBP"),
            ],
            token_lifetime_s: 86_399,
            token_expires_in_s: None,
            token_prefix: String::new(),
            single_token: false,
            decline_form: DeclineForm::default(),
            sequence: SequenceRule::default(),
            duplicate_window_s: 0,
            authorization_ready_after_ms: 0,
            batch_close_after_s: None,
            search_lag_ms: 0,
            search_envelope: Envelope::default(),
            partial_capture: true,
            risk_data_required: true,
            reversal_reaches_authorizations: false,
            returns_capped_in_sum: false,
        }
    }
}

impl Rules {
    pub(super) fn device(&self, guid: &str) -> Option<&Device> {
        self.devices
            .iter()
            .find(|device| device.guid.eq_ignore_ascii_case(guid))
    }

    /// These rules with the given ones changed.
    ///
    /// # Errors
    /// What is wrong with the JSON object.
    pub(super) fn changed(&self, json: &[u8]) -> Result<Self, String> {
        let told = |error: serde_json::Error| error.to_string();
        let changes: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(json).map_err(told)?;
        let mut all = serde_json::to_value(self).map_err(told)?;
        if let Some(all) = all.as_object_mut() {
            all.extend(changes);
        }
        serde_json::from_value(all).map_err(told)
    }
}
