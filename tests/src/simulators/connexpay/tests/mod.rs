//! The rules of ConnexPay as its documents state them, checked through the API.

mod arithmetic;
mod books;
mod follow_ups;
mod reading;
mod rules;

use serde_json::Value;

use super::super::tests::{Caller, Heard, sale};

fn without(mut body: Value, path: &str) -> Value {
    let (parent, name) = path.rsplit_once('/').expect("a path");
    let parent = if parent.is_empty() {
        Some(&mut body)
    } else {
        body.pointer_mut(parent)
    };
    parent
        .and_then(Value::as_object_mut)
        .expect("an object")
        .remove(name);
    body
}

fn with(mut body: Value, path: &str, value: Value) -> Value {
    *body.pointer_mut(path).expect("a field") = value;
    body
}

fn guid(heard: &Heard) -> String {
    heard.json()["guid"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", heard.body))
        .to_owned()
}

async fn authorized(caller: &mut Caller, amount: &str, sequence_number: &str) -> String {
    guid(
        &caller
            .post("AuthOnlys", &sale(amount, sequence_number))
            .await,
    )
}
