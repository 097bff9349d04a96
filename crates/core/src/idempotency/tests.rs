//! Fingerprints: what is the same request, what is not, and vectors that hold every release to the stored ones.
//!
//! The vectors were computed by another implementation, from the description of the form. If one of them fails, do not
//! correct it: every retry that is under way during the roll-out would be refused. Add a version instead.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::money::Currency;

/// Bytes 0 to 31.
const KEY_HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn keys(current: &str, older: &[&str]) -> FingerprintKeys {
    let older: Vec<SecretString> = older.iter().map(|key| SecretString::from(*key)).collect();
    FingerprintKeys::parse(&current.into(), &older).expect("keys of this test")
}

fn usd(minor: i64) -> Money {
    let currency = Currency::parse("USD").expect("a currency");
    Money::new(minor, currency).expect("not negative")
}

fn pan(number: &str) -> Pan {
    Pan::parse(number).expect("a test card")
}

fn sale() -> CanonicalForm {
    let mut form = CanonicalForm::new("sale");
    form.text("/account", "acme-us")
        .amount(usd(150_000))
        .text_unless("/capture", "automatic", "automatic")
        .text("/order_reference", "857B2")
        .boolean_unless("/once_per_order", true, false)
        .optional_text("/statement_descriptor", None)
        .pan("/card/number", &pan("4012000098765439"))
        .text("/card/expiry", "2030-12")
        .sensitive("/card/holder", &Sensitive::new("Jane Doe"))
        .json("/upstream", &json!({"expected_payments": 9}))
        .json(
            "/metadata",
            &json!({"ratio": 1.5, "a/b": ["c-91"], "empty": {}, "none": null}),
        );
    form
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn version_1_is_what_it_was() {
    let keys = keys(KEY_HEX, &[]);
    let fingerprint = sale().fingerprint(&keys);
    assert_eq!((fingerprint.version, fingerprint.key_id), (1, 0x6b2c_4e00));
    assert_eq!(
        hex(&fingerprint.digest),
        "226e98fa048109b62da1514b538319999b19135e9bf9b1ca9dffdb6b80cee2dc"
    );

    let mut refund = CanonicalForm::new("refund");
    refund
        .text("/payment", "pay_01a1f94a04db7fffbfffffffffffffff")
        .amount(usd(500));
    let digest = refund.fingerprint(&keys).digest;
    assert_eq!(
        hex(&digest),
        "d427258f31d457141bd537599ff22a0a73323ff5a9b594dccb3c1a5089a72ce7"
    );
}

#[test]
fn references_are_what_they_were() {
    let keys = keys(KEY_HEX, &[]);
    let client = Client::parse("acme-web").expect("a client");
    let key = IdempotencyKey::parse("\"order-857B2\"").expect("a key");
    assert_eq!(
        UpstreamReference::derive(&keys, &client, &key).as_str(),
        "ED68RFBA0LCOAUGQR"
    );
    let operation: OperationId = "op_01a1f94a04db7fffbfffffffffffffff"
        .parse()
        .expect("an id");
    let reversal = UpstreamReference::derive_internal(&keys, operation, "reversal");
    assert_eq!(reversal.as_str(), "KW0DHVM2UHD9PZUMB");
}

#[test]
fn every_difference_that_matters_is_seen() {
    let keys = keys(KEY_HEX, &[]);
    let stored = sale().fingerprint(&keys);
    let changed = |change: &dyn Fn(&mut CanonicalForm)| {
        let mut form = sale();
        change(&mut form);
        stored.compare(&form, &keys)
    };
    assert_eq!(changed(&|_| ()), Comparison::Same);
    let one_more: [&dyn Fn(&mut CanonicalForm); 4] = [
        &|form| _ = form.text("/capture", "manual"),
        &|form| _ = form.text("/statement_descriptor", "x"),
        &|form| _ = form.json("/metadata", &json!({"none": 0})),
        &|form| _ = form.sensitive("/customer/email", &Sensitive::new("j@example.com")),
    ];
    for change in one_more {
        assert_eq!(changed(change), Comparison::Different);
    }
    let of = |verb: &str, minor: i64, number: &str| {
        let mut form = CanonicalForm::new(verb);
        form.amount(usd(minor)).pan("/card/number", &pan(number));
        form
    };
    let stored = of("sale", 100, "4012000098765439").fingerprint(&keys);
    for (verb, minor, number) in [
        ("authorize", 100, "4012000098765439"),
        ("sale", 101, "4012000098765439"),
        ("sale", 100, "5499740000000057"),
    ] {
        assert_eq!(
            stored.compare(&of(verb, minor, number), &keys),
            Comparison::Different
        );
    }
}

#[test]
fn values_of_different_kinds_or_places_differ() {
    let keys = keys(KEY_HEX, &[]);
    let digests: Vec<[u8; 32]> = [
        json!({"a": "1"}),
        json!({"a": 1}),
        json!({"a": true}),
        json!({"a": 1.5}),
        json!({"a": [1]}),
        json!({"a": {"0": "1"}}),
        json!({"a/0": 1}),
        json!({"a~10": 1}),
        json!({"ab": "c"}),
        json!({"a": "bc"}),
        json!({"a": "b", "c": ""}),
        json!({}),
    ]
    .iter()
    .map(|document| {
        let mut form = CanonicalForm::new("sale");
        form.json("/metadata", document);
        form.fingerprint(&keys).digest
    })
    .collect();
    for (at, digest) in digests.iter().enumerate() {
        assert!(!digests[..at].contains(digest), "document {at}");
    }
    let mut as_pan = CanonicalForm::new("sale");
    as_pan.pan("/card/number", &pan("4012000098765439"));
    let mut as_text = CanonicalForm::new("sale");
    as_text.text("/card/number", "4012000098765439");
    assert_ne!(as_pan.fingerprint(&keys), as_text.fingerprint(&keys));
}

#[test]
fn a_number_is_the_same_however_it_is_written() {
    let keys = keys(KEY_HEX, &[]);
    let of = |text: &str| {
        let mut form = CanonicalForm::new("sale");
        form.json("/upstream/n", &serde_json::from_str(text).expect("JSON"));
        form.fingerprint(&keys)
    };
    assert_eq!(of("100"), of("1e2"));
    assert_eq!(of("100"), of("100.0"));
    assert_eq!(of("0"), of("-0.0"));
    assert_eq!(of("1.50"), of("1.5"));
    assert_ne!(of("1.5"), of("1"));
    assert_ne!(of("9223372036854775808"), of("9223372036854775807"));
}

#[test]
fn an_older_key_still_compares_and_a_lost_one_says_so() {
    let stored = sale().fingerprint(&keys(KEY_HEX, &[]));
    let rotated = keys(OTHER_KEY, &[KEY_HEX]);
    assert_eq!(stored.compare(&sale(), &rotated), Comparison::Same);
    assert_eq!(
        stored.compare(&CanonicalForm::new("sale"), &rotated),
        Comparison::Different
    );
    assert_ne!(sale().fingerprint(&rotated).key_id, stored.key_id);
    // A key that was changed in place is a lost key, not another request.
    assert_eq!(
        stored.compare(&sale(), &keys(OTHER_KEY, &[])),
        Comparison::KeyLost
    );
    // During a roll-out, and after going back, rows of a newer release are met.
    let newer = Fingerprint {
        version: 2,
        ..stored
    };
    assert_eq!(newer.compare(&sale(), &rotated), Comparison::KeyLost);
}

#[test]
fn references_under_older_keys_can_be_derived_again() {
    let client = Client::parse("acme-web").expect("a client");
    let key = IdempotencyKey::parse("order-857B2").expect("a key");
    let before = UpstreamReference::derive(&keys(KEY_HEX, &[]), &client, &key);
    let rotated = keys(OTHER_KEY, &[KEY_HEX]);
    let now = UpstreamReference::derive(&rotated, &client, &key);
    assert_eq!(
        UpstreamReference::derive_all(&rotated, &client, &key),
        [now, before]
    );
}

#[test]
fn keys_are_read_in_both_notations_and_refused_by_name() {
    let of = |text: &str| FingerprintKeys::parse(&text.into(), &[]).map(|keys| keys.current_id());
    let id = of(KEY_HEX).expect("hexadecimal");
    assert_eq!(of(&KEY_HEX.to_uppercase()), Ok(id));
    assert_eq!(of("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Ok(id));
    assert_eq!(of("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"), Ok(id));
    let high = "_".repeat(43);
    assert_eq!(
        of(&high.replace('_', "/")),
        Err(OperatorKeyError::Encoding.into())
    ); // Bits beyond the last byte.
    assert_eq!(of(&format!("{}8", &high[..42])), of(OTHER_KEY));
    assert_eq!(
        of(""),
        Err(OperatorKeyError::TooShort { min: 32, found: 0 }.into())
    );
    assert_eq!(of("abc"), Err(OperatorKeyError::Encoding.into()));
    assert_eq!(of("not a key!"), Err(OperatorKeyError::Encoding.into()));
    assert_eq!(
        of(&KEY_HEX[..62]),
        Err(OperatorKeyError::TooShort { min: 32, found: 31 }.into())
    );
    let twice = FingerprintKeys::parse(&KEY_HEX.into(), &[KEY_HEX.into()]);
    assert_eq!(twice.map(|_| ()), Err(FingerprintKeyError::Repeated));
}

#[test]
fn nothing_secret_is_in_any_debug_output() {
    let keys = keys(KEY_HEX, &[OTHER_KEY]);
    let form = sale();
    let shown = format!("{keys:?} {form:?} {:?}", form.fingerprint(&keys));
    for secret in ["0102030405", "4012000098765439", "Jane", "226e98fa"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn stored_bytes_are_read_back_or_refused() {
    let fingerprint = sale().fingerprint(&keys(KEY_HEX, &[]));
    assert_eq!(
        Fingerprint::from_bytes(&fingerprint.to_bytes()),
        Ok(fingerprint)
    );
    for length in [0, 32, 36, 38] {
        let error = Fingerprint::from_bytes(&vec![1; length]);
        assert_eq!(error, Err(FingerprintFormError { found: length }));
    }
}

/// One to four fields of any kind, at different paths.
fn some_fields() -> impl Strategy<Value = Vec<(String, serde_json::Value)>> {
    let value = prop_oneof![
        any::<i64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|flag| json!(flag)),
        "[a-z]{0,4}".prop_map(|text| json!(text)),
    ];
    prop::collection::btree_map("/[a-c]{1,3}", value, 1..5)
        .prop_map(|fields| fields.into_iter().collect())
}

fn form_of(fields: &[(String, serde_json::Value)]) -> CanonicalForm {
    let mut form = CanonicalForm::new("sale");
    for (path, value) in fields {
        form.json(path.clone(), value);
    }
    form
}

proptest! {
    #[test]
    fn the_order_of_fields_does_not_matter(
        (fields, shuffled) in some_fields().prop_flat_map(|fields| (Just(fields.clone()), Just(fields).prop_shuffle()))
    ) {
        let keys = keys(KEY_HEX, &[]);
        prop_assert_eq!(form_of(&fields).fingerprint(&keys), form_of(&shuffled).fingerprint(&keys));
    }

    #[test]
    fn two_requests_are_the_same_only_if_their_fields_are(one in some_fields(), other in some_fields()) {
        let keys = keys(KEY_HEX, &[]);
        let stored = form_of(&one).fingerprint(&keys);
        let expected = if one == other { Comparison::Same } else { Comparison::Different };
        prop_assert_eq!(stored.compare(&form_of(&other), &keys), expected);
    }

    #[test]
    fn references_have_the_right_form_and_belong_to_one_pair(client in "[a-z][a-z-]{0,5}", key in "[a-z-]{1,6}") {
        let keys = keys(KEY_HEX, &[]);
        let of = |client: &str, key: &str| {
            let client = Client::parse(client).expect("a client");
            UpstreamReference::derive(&keys, &client, &IdempotencyKey::parse(key).expect("a key"))
        };
        let reference = of(&client, &key);
        prop_assert_eq!(UpstreamReference::parse(reference.as_str()), Ok(reference.clone()));
        prop_assert!(reference.as_str().as_bytes()[0].is_ascii_uppercase());
        prop_assert_eq!(of(&client, &key), reference.clone());
        // What moves from the client to the key makes another pair.
        prop_assert_ne!(of(&format!("{client}x"), &key), of(&client, &format!("x{key}")));
    }
}
