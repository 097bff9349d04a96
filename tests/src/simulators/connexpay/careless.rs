//! What a careless upstream repeats of a request that it answers.

use serde_json::Value;

use super::presented_token;
use crate::simulators::echo::Form;
use crate::simulators::json::Fields;
use crate::simulators::site::{Received, Reply};

/// What is secret in a request, and the password behind its token. Short, and what takes most room first: whoever cuts
/// the text must not thereby hide what it still holds.
pub(super) fn echo(request: &Received, password: &str, form: Form) -> String {
    let number = card_field(request, "CardNumber");
    let groups = |between: &str| {
        let digits: Vec<char> = number.chars().collect();
        let groups: Vec<String> = digits.chunks(4).map(String::from_iter).collect();
        groups.join(between)
    };
    let grouped = match form {
        Form::Plain => format!(" ({} or {})", groups(" "), groups("-")),
        Form::Wide => format!(" ({})", groups(" - ")),
        _ => String::new(),
    };
    format!(
        "Token {}, login {}, card {}{grouped} of {}, code {}, to {}.",
        form.of_words(presented_token(request).unwrap_or_default()),
        form.of_words(password),
        form.of(&number),
        form.of_words(&card_field(request, "CardHolderName")),
        form.of(&card_field(request, "Cvv2")),
        card_field(request, "ExpirationDate"),
    )
}

/// The answer with all that repeated in each of its texts, and in each field that is kept as it comes.
pub(super) fn repeated_in(reply: Reply, request: &Received, password: &str, form: Form) -> Reply {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&reply.body) else {
        return reply;
    };
    let echo = Value::from(echo(request, password, form));
    for name in [
        "processorResponseMessage",
        "statementDescription",
        "customerReceipt",
        "generatedBy",
        "refNumber",
        "invoiceNumber",
    ] {
        fields.insert(name.to_owned(), echo.clone());
    }
    let written = |name: &str| Value::from(form.of(&card_field(request, name)));
    fields.insert("authCode".to_owned(), written("Cvv2"));
    if let Some(Value::Object(card)) = fields.get_mut("card") {
        card.insert("cardNumber".to_owned(), written("CardNumber"));
        card.insert("last4".to_owned(), written("Cvv2"));
        card.insert("cardType".to_owned(), form.of_words(password).into());
    }
    Reply::json(reply.status, Value::Object(fields).to_string())
}

fn card_field(request: &Received, name: &str) -> String {
    let body = Fields::parse(&request.body).unwrap_or_default();
    let card = body.object("Card").ok().flatten().unwrap_or_default();
    card.text(name).ok().flatten().unwrap_or_default()
}
