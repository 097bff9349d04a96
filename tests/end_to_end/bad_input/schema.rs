//! Everything that a schema forbids, one wrong body after another.

use serde_json::{Value, json};

use super::with;

/// One wrong body, and the one place that must be named.
pub(super) struct Case {
    pub(super) body: String,
    pub(super) pointer: String,
    pub(super) what: &'static str,
}

/// The cases of one schema.
pub(super) struct Cases<'a> {
    /// Where references lead.
    pub(super) document: &'a Value,
    /// A valid body, with every field.
    pub(super) base: &'a Value,
    pub(super) found: Vec<Case>,
}

impl Cases<'_> {
    /// Everything that `schema` forbids at `pointer`, where the valid body has `value`.
    pub(super) fn of(&mut self, schema: &Value, pointer: &str, value: &Value) {
        let schema = self.resolved(schema);
        if pointer.is_empty() {
            self.found.push(Case {
                body: "7".to_owned(),
                pointer: String::new(),
                what: "a number",
            });
        } else {
            self.put(pointer, json!(null), "null");
            self.put_endless(pointer);
        }
        if let Some(choices) = schema["enum"].as_array() {
            assert!(choices.contains(value), "{pointer} is valid");
            self.put(pointer, json!("surprise"), "another word");
        }
        match schema["type"].as_str() {
            Some("object") => self.object(&schema, pointer, value),
            Some("string") => self.string(&schema, pointer),
            Some("integer") => self.integer(&schema, pointer),
            Some("boolean") => {
                self.wrong_types(pointer, &[json!("true"), json!(1), json!([]), json!({})]);
            }
            other => panic!("{pointer}: no cases for {other:?} in {schema}"),
        }
    }

    fn object(&mut self, schema: &Value, pointer: &str, value: &Value) {
        self.wrong_types(pointer, &[json!("{}"), json!(1), json!(true), json!([])]);
        let names = value.as_object().expect("an object");
        for required in schema["required"].as_array().into_iter().flatten() {
            let required = required.as_str().expect("a name");
            let place = format!("{pointer}/{required}");
            let body = without(self.base, &place);
            self.found.push(Case {
                body,
                pointer: place,
                what: "nothing",
            });
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            // A card has either a number or a token: the token has cases of its own.
            if let Some(value) = names.get(name) {
                self.of(property, &format!("{pointer}/{name}"), value);
            } else {
                assert_eq!(
                    format!("{pointer}/{name}"),
                    "/card/token",
                    "the valid body lacks it"
                );
                self.token(property);
            }
        }
        match &schema["additionalProperties"] {
            Value::Bool(false) => self.put(
                &format!("{pointer}/surprise"),
                json!("x"),
                "an unknown field",
            ),
            members @ Value::Object(_) => {
                for (name, value) in names {
                    self.of(members, &format!("{pointer}/{name}"), value);
                }
            }
            // Only the connector knows its members.
            _ => {
                for name in names.keys() {
                    self.put_endless(&format!("{pointer}/{name}"));
                }
            }
        }
    }

    fn string(&mut self, schema: &Value, pointer: &str) {
        self.wrong_types(pointer, &[json!(7), json!(true), json!([]), json!({})]);
        if schema["enum"].is_array() {
            return;
        }
        if schema["minLength"].as_u64().is_some_and(|least| least > 0) {
            self.put(pointer, json!(""), "an empty text");
        }
        if let Some(most) = schema["maxLength"].as_u64() {
            let most = usize::try_from(most).expect("a length");
            self.put(
                pointer,
                json!("a".repeat(most + 1)),
                "a text that is too long",
            );
        }
        if schema["pattern"].is_string() {
            self.put(pointer, json!("~"), "a text of another form");
        }
        self.put(pointer, json!("a\u{0}b"), "a text with U+0000");
    }

    fn integer(&mut self, schema: &Value, pointer: &str) {
        self.wrong_types(
            pointer,
            &[json!("7"), json!(true), json!([]), json!({}), json!(1.5)],
        );
        let least = schema["minimum"]
            .as_i64()
            .expect("every integer has bounds");
        let most = schema["maximum"]
            .as_i64()
            .expect("every integer has bounds");
        for beyond in [least - 1, most + 1, i64::MIN, i64::MAX] {
            self.put(pointer, json!(beyond), "a number out of range");
        }
    }

    fn token(&mut self, schema: &Value) {
        let mut base = self.base.clone();
        base["card"] = json!({"token": "nr959X7eCIXI0473"});
        let mut cases = Cases {
            document: self.document,
            base: &base,
            found: Vec::new(),
        };
        cases.of(schema, "/card/token", &base["card"]["token"]);
        self.found.append(&mut cases.found);
    }

    fn wrong_types(&mut self, pointer: &str, values: &[Value]) {
        for value in values {
            if pointer.is_empty() {
                self.found.push(Case {
                    body: value.to_string(),
                    pointer: String::new(),
                    what: "another type",
                });
            } else {
                self.put(pointer, value.clone(), "another type");
            }
        }
    }

    fn put(&mut self, pointer: &str, value: Value, what: &'static str) {
        let body = with(self.base, pointer, value).to_string();
        self.found.push(Case {
            body,
            pointer: pointer.to_owned(),
            what,
        });
    }

    /// A number that no reader holds is JSON all the same.
    fn put_endless(&mut self, pointer: &str) {
        let body = with(self.base, pointer, json!("endless")).to_string();
        self.found.push(Case {
            body: body.replace("\"endless\"", "1e400"),
            pointer: pointer.to_owned(),
            what: "a number beyond every range",
        });
    }

    /// Follows references.
    fn resolved(&self, schema: &Value) -> Value {
        let Some(name) = schema["$ref"].as_str() else {
            return schema.clone();
        };
        let target = self.document.pointer(name.trim_start_matches('#'));
        self.resolved(target.unwrap_or_else(|| panic!("{name} leads nowhere")))
    }
}

fn without(body: &Value, pointer: &str) -> String {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    parent
        .expect("an object")
        .remove(name)
        .expect("the valid body has it");
    body.to_string()
}
