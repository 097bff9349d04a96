//! What the processor answers when it is asked for an access token.

use gateway_core::token::TokenSource;
use secrecy::ExposeSecret;

use super::processor::{assert_keeps_secrets, on_stage, script};
use super::theirs::Fields;

/// The first answer of the script.
pub(super) fn upstream_tokens(data: &[u8]) {
    let script = script(data);
    on_stage(|stage| {
        stage.token_wire.play(&script);
        let fetched = stage.block_on(stage.tokens.fetch());
        let [exchanged] = stage.token_wire.exchanged().try_into().expect("one call");
        assert_keeps_secrets(&fetched);
        let Ok(token) = fetched else { return };
        let (status, fields) = Fields::of(&exchanged.answer).expect("a token without an object");
        assert!((200..300).contains(&status), "a token by {status}");
        let theirs = fields.text("access_token").unwrap_or_default();
        assert_eq!(theirs, token.value.expose_secret().trim());
        let life = fields.text("expires_in").expect("a life");
        assert_eq!(life.parse(), Ok(token.expires_in.as_secs()));
    });
}
