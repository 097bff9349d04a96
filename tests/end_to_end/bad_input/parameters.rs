//! Everything that the document forbids of headers, queries and paths, one wrong request after another.

use http::Method;
use sandbox::world::Reply;
use serde_json::Value;

use super::pointers;
use super::scene::Scene;

/// One parameter of one route.
pub(super) struct Parameter<'a> {
    pub(super) template: &'a str,
    pub(super) method: &'a str,
    pub(super) name: &'a str,
    place: &'a str,
    required: bool,
    schema: &'a Value,
}

/// All that the document declares.
pub(super) fn declared(document: &Value) -> Vec<Parameter<'_>> {
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let text = |name: &str| parameter[name].as_str().expect("a text");
                found.push(Parameter {
                    template,
                    method,
                    name: text("name"),
                    place: text("in"),
                    required: parameter["required"] == true,
                    schema: &parameter["schema"],
                });
            }
        }
    }
    found
}

impl Parameter<'_> {
    /// The values it may not have, each with what is wrong; several are sent one after the other, none is not sent.
    pub(super) fn wrong(&self) -> Vec<(&'static str, Vec<String>)> {
        let one = |text: &str| vec![text.to_owned()];
        if self.place == "path" {
            let nobody = one("01980000000070008000000000000000");
            return vec![("another form", one("surprise")), ("no prefix", nobody)];
        }
        let mut wrong = vec![("two of them", vec![self.valid(), self.valid()])];
        if self.required {
            wrong.push(("none", Vec::new()));
        }
        let kind = self.schema["type"].as_str().expect("one type");
        match kind {
            "integer" | "number" => {
                wrong.push(("nothing", one("")));
                wrong.push(("a word", one("surprise")));
                wrong.push(("another notation", one("1e1")));
                if kind == "integer" {
                    wrong.push(("a fraction", one("1.5")));
                }
                for bound in ["minimum", "maximum", "exclusiveMinimum"] {
                    if let Some(bound_at) = self.schema[bound].as_i64() {
                        let beyond = match bound {
                            "minimum" => bound_at - 1,
                            "maximum" => bound_at + 1,
                            _ => bound_at,
                        };
                        wrong.push(("a number out of range", one(&beyond.to_string())));
                    }
                }
            }
            "string" => {
                if self.schema["minLength"]
                    .as_u64()
                    .is_some_and(|least| least > 0)
                {
                    wrong.push(("an empty text", one("")));
                }
                if let Some(most) = self.schema["maxLength"].as_u64() {
                    let most = usize::try_from(most).expect("a length");
                    wrong.push(("a text that is too long", vec!["a".repeat(most + 1)]));
                }
                if self.schema["format"] == "date-time" {
                    wrong.push(("no instant", one("yesterday")));
                }
                if self.schema["enum"].is_array() {
                    wrong.push(("another word", one("surprise")));
                }
            }
            other => panic!("{}: no cases for {other:?}", self.name),
        }
        wrong
    }

    /// A value that is allowed.
    fn valid(&self) -> String {
        match self.name {
            "Idempotency-Key" | "idempotency_key" => "k-valid",
            "status" => "captured",
            "created_after" => "2026-11-20T14:09:00Z",
            "after" => "1-1",
            "cursor" | "order_reference" => "857B2",
            "limit" | "Request-Timeout" => "1",
            other => panic!("no value of {other}"),
        }
        .to_owned()
    }

    /// Sends an otherwise valid request with these values.
    pub(super) async fn send(&self, scene: &Scene<'_>, values: &[String]) -> Reply {
        let (path, body) = scene.valid(self.template);
        let key = scene.next_key();
        let mut headers = Vec::new();
        if self.method == "post" {
            headers.push(("idempotency-key", key.as_str()));
        }
        let path = match self.place {
            "path" => self.template.replace("{id}", &values[0]),
            "query" => {
                let pairs: Vec<_> = values
                    .iter()
                    .map(|value| format!("{}={value}", self.name))
                    .collect();
                format!("{path}?{}", pairs.join("&"))
            }
            _ => {
                let name = self.name.to_ascii_lowercase();
                let name = ["idempotency-key", "request-timeout"]
                    .into_iter()
                    .find(|known| *known == name);
                let name = name.unwrap_or_else(|| panic!("no header {}", self.name));
                headers.retain(|(other, _)| *other != name);
                headers.extend(values.iter().map(|value| (name, value.as_str())));
                path
            }
        };
        let shop = &scene.shop;
        match self.method {
            "get" => shop.ask_with(Method::GET, &path, &headers).await,
            "delete" => shop.ask_with(Method::DELETE, &path, &headers).await,
            "post" => shop.post_with(&path, body.to_string(), &headers).await,
            other => panic!("no requests with {other}"),
        }
    }

    /// Fails the test unless the parameter was refused by its name.
    #[track_caller]
    pub(super) fn assert_refused(&self, what: &str, reply: &Reply) {
        let (method, template, name) = (self.method, self.template, self.name);
        let told = format!("{method} {template} with {what} for {name}: {}", reply.body);
        match (self.place, name) {
            ("path", _) => assert_eq!(
                (reply.status, reply.problem()),
                (404, "not-found"),
                "{told}"
            ),
            (_, "Idempotency-Key") => {
                assert_eq!(reply.status, 400, "{told}");
                assert!(reply.problem().starts_with("idempotency-key-"), "{told}");
            }
            (place, _) => {
                let refused = (reply.status, reply.problem());
                assert_eq!(refused, (400, "malformed-request"), "{told}");
                assert_eq!(pointers(reply), [format!("{place}:{name}")], "{told}");
            }
        }
    }
}
