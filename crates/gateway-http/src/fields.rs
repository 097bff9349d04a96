//! Reads typed fields out of JSON and collects every fault, instead of stopping at the first.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::rc::Rc;

use gateway_core::echo::pointer_to;
use serde_json::{Map, Value};

use crate::json::{Json, to_map};
use crate::problem::{ERROR_COUNT_MAX, Fault, Problem};

/// The faults found so far.
#[derive(Debug, Default)]
pub struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub fn push(&self, pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        let mut faults = self.0.borrow_mut();
        if faults.len() < ERROR_COUNT_MAX {
            faults.push(Fault::new(pointer, code, detail));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All faults as one `422`. `None` if there are none.
    pub fn into_problem(self) -> Option<Problem> {
        let faults = self.0.into_inner();
        (!faults.is_empty()).then(|| Problem::invalid(faults))
    }
}

/// Refuses duplicate members anywhere in the body: two readers of one text must never see two amounts.
pub fn refuse_duplicates(json: &Json<'_>, pointer: &str, faults: &Faults) {
    match json {
        Json::Object(members) => {
            let mut seen = HashSet::with_capacity(members.len());
            for (name, value) in members {
                if !seen.insert(name.as_ref()) {
                    faults.push(
                        pointer_to(pointer, name),
                        "duplicate-field",
                        "the field occurs twice",
                    );
                }
                if matches!(value, Json::Object(_) | Json::Array(_)) {
                    refuse_duplicates(value, &pointer_to(pointer, name), faults);
                }
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if matches!(item, Json::Object(_) | Json::Array(_)) {
                    refuse_duplicates(item, &format!("{pointer}/{index}"), faults);
                }
            }
        }
        _ => {}
    }
}

/// Refuses numbers that no reader holds, where nobody here knows the fields: passed on they would become null.
fn refuse_endless(json: &Json<'_>, pointer: &str, faults: &Faults) {
    match json {
        Json::Float(value) if value.is_infinite() => {
            faults.push(
                pointer,
                "out-of-range",
                "must be a number of at most 64 bits",
            );
        }
        Json::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| may_be_endless(value)) {
                refuse_endless(value, &pointer_to(pointer, name), faults);
            }
        }
        Json::Array(items) => {
            let items = items.iter().enumerate();
            for (index, item) in items.filter(|(_, item)| may_be_endless(item)) {
                refuse_endless(item, &format!("{pointer}/{index}"), faults);
            }
        }
        _ => {}
    }
}

/// Only then its pointer is worth its making.
fn may_be_endless(json: &Json<'_>) -> bool {
    matches!(json, Json::Float(_) | Json::Object(_) | Json::Array(_))
}

/// The members of one object. Take each known field, then call [`Fields::finish`].
#[derive(Debug)]
pub struct Fields<'j, 'a, 'f> {
    members: &'j [(std::borrow::Cow<'a, str>, Json<'a>)],
    taken: Vec<bool>,
    pointer: Rc<str>,
    faults: &'f Faults,
}

impl<'j, 'a, 'f> Fields<'j, 'a, 'f> {
    /// The members of `json` if it is an object; else a fault.
    pub fn of(json: &'j Json<'a>, pointer: &str, faults: &'f Faults) -> Option<Self> {
        let Json::Object(members) = json else {
            faults.push(
                pointer,
                "type",
                format!("must be an object, not {}", json.type_name()),
            );
            return None;
        };
        Some(Self {
            members,
            taken: vec![false; members.len()],
            pointer: pointer.into(),
            faults,
        })
    }

    /// A field that must be there.
    pub fn required(&mut self, name: &'static str) -> Field<'j, 'a, 'f> {
        let field = self.take(name);
        if field.value.is_none() && !field.refused {
            field.refuse("required", "is required");
        }
        field
    }

    /// A field that may be absent. An explicit `null` is refused all the same: absent and null mean one thing.
    pub fn optional(&mut self, name: &'static str) -> Field<'j, 'a, 'f> {
        self.take(name)
    }

    /// Whether the field is there, null or not. Does not take it.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(present, _)| present == name)
    }

    /// Takes a field without reading it.
    pub fn ignore(&mut self, name: &str) {
        for ((present, _), taken) in self.members.iter().zip(&mut self.taken) {
            *taken |= present == name;
        }
    }

    /// Refuses, by name, what nobody took.
    pub fn finish(self) {
        for ((name, _), taken) in self.members.iter().zip(&self.taken) {
            if !taken {
                self.faults.push(
                    pointer_to(&self.pointer, name),
                    "unknown-field",
                    "is not a known field here",
                );
            }
        }
    }

    fn take(&mut self, name: &'static str) -> Field<'j, 'a, 'f> {
        let mut value = None;
        for (index, (present, json)) in self.members.iter().enumerate() {
            if present == name {
                self.taken[index] = true;
                value.get_or_insert(json);
            }
        }
        let mut field = Field {
            value,
            refused: matches!(value, Some(Json::Null)),
            parent: Rc::clone(&self.pointer),
            name,
            faults: self.faults,
        };
        if field.refused {
            field.refuse("null", "must not be null; leave the field out instead");
            field.value = None;
        }
        field
    }
}

/// One field. Each reader answers `None` if the field is absent or at fault; the fault is then recorded.
#[derive(Debug)]
pub struct Field<'j, 'a, 'f> {
    value: Option<&'j Json<'a>>,
    refused: bool,
    /// With `name` its pointer, which is made for a fault only: most fields have none.
    parent: Rc<str>,
    name: &'static str,
    faults: &'f Faults,
}

impl<'j, 'a, 'f> Field<'j, 'a, 'f> {
    pub fn is_present(&self) -> bool {
        self.value.is_some() || self.refused
    }

    pub fn pointer(&self) -> String {
        pointer_to(&self.parent, self.name)
    }

    pub fn faults(&self) -> &'f Faults {
        self.faults
    }

    /// Records a fault at this field.
    pub fn refuse(&self, code: &'static str, detail: impl Into<String>) {
        self.faults.push(self.pointer(), code, detail);
    }

    /// A text without control characters, of a length in characters.
    pub fn text(&self, length: RangeInclusive<usize>) -> Option<&'j str> {
        let text = self.any_text()?;
        let count = text.chars().count();
        if count < *length.start() {
            let detail = if count == 0 {
                "must not be empty".into()
            } else {
                format!("must have at least {} characters", length.start())
            };
            self.refuse(if count == 0 { "empty" } else { "too-short" }, detail);
            return None;
        }
        if count > *length.end() {
            self.refuse(
                "too-long",
                format!("must have at most {} characters", length.end()),
            );
            return None;
        }
        // A ledger that is asked to keep U+0000 refuses the whole batch.
        if text.chars().any(char::is_control) {
            self.refuse("control-character", "must not hold control characters");
            return None;
        }
        Some(text)
    }

    /// Any text, for types that have rules of their own.
    pub fn any_text(&self) -> Option<&'j str> {
        match self.value? {
            Json::Text(text) => Some(text),
            other => self.wrong_type("a string", other),
        }
    }

    /// A whole number. `1.0`, `1e3` and `"1"` are not.
    pub fn integer(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        let out_of_range = || {
            self.refuse(
                "out-of-range",
                format!("must be between {} and {}", bounds.start(), bounds.end()),
            );
            None
        };
        match *self.value? {
            Json::Integer(value) if bounds.contains(&value) => Some(value),
            Json::Integer(_) | Json::Unsigned(_) => out_of_range(),
            // An integer too long for 64 bits arrives as a float, too; 2^63 is where they begin.
            Json::Float(value) if value.abs() >= 9_223_372_036_854_775_808.0 => out_of_range(),
            Json::Float(_) => {
                self.refuse(
                    "not-an-integer",
                    "must be a whole number, written without fraction or exponent",
                );
                None
            }
            ref other => self.wrong_type("an integer", other),
        }
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.value? {
            Json::Bool(value) => Some(*value),
            other => self.wrong_type("a boolean", other),
        }
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.any_text()?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = choices
                .iter()
                .map(|(word, _)| format!("`{word}`"))
                .collect();
            self.refuse(
                "not-a-choice",
                format!("must be one of {}", words.join(", ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A nested object with known fields.
    pub fn object(&self) -> Option<Fields<'j, 'a, 'f>> {
        Fields::of(self.value?, &self.pointer(), self.faults)
    }

    /// A nested object whose fields somebody else knows.
    pub fn raw_object(&self) -> Option<Map<String, Value>> {
        match self.value? {
            Json::Object(members) => {
                refuse_endless(self.value?, &self.pointer(), self.faults);
                Some(to_map(members))
            }
            other => self.wrong_type("an object", other),
        }
    }

    /// The members of a nested object, as they came.
    pub fn members(&self) -> Option<&'j [(std::borrow::Cow<'a, str>, Json<'a>)]> {
        match self.value? {
            Json::Object(members) => Some(members),
            other => self.wrong_type("an object", other),
        }
    }

    fn wrong_type<T>(&self, wanted: &str, found: &Json<'_>) -> Option<T> {
        self.refuse(
            "type",
            format!("must be {wanted}, not {}", found.type_name()),
        );
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(body: &str, read: impl FnOnce(&mut Fields<'_, '_, '_>)) -> Vec<(String, String)> {
        let json = Json::parse(body.as_bytes()).expect("JSON");
        let faults = Faults::default();
        refuse_duplicates(&json, "", &faults);
        if let Some(mut fields) = Fields::of(&json, "", &faults) {
            read(&mut fields);
            fields.finish();
        }
        let problem = faults.into_problem();
        problem.map_or(Vec::new(), |problem| {
            problem
                .errors()
                .iter()
                .map(|fault| (fault.pointer.clone(), fault.code.to_string()))
                .collect()
        })
    }

    fn pair(pointer: &str, code: &str) -> (String, String) {
        (pointer.to_owned(), code.to_owned())
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let found = faults_of(
            r#"{"a":"","b":1.5,"c":null,"e":{"x":1},"e2":{"y":[]},"g":9}"#,
            |fields| {
                fields.required("a").text(1..=3);
                fields.required("b").integer(0..=9);
                fields.required("c").boolean();
                fields.required("d").boolean();
                fields
                    .optional("e")
                    .object()
                    .into_iter()
                    .for_each(Fields::finish);
                if let Some(mut inner) = fields.optional("e2").object() {
                    inner.optional("y").text(0..=1);
                    inner.finish();
                }
                fields.optional("f").text(1..=1);
            },
        );
        let wanted = vec![
            pair("/a", "empty"),
            pair("/b", "not-an-integer"),
            pair("/c", "null"),
            pair("/d", "required"),
            pair("/e/x", "unknown-field"),
            pair("/e2/y", "type"),
            pair("/g", "unknown-field"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn amounts_are_integers_within_bounds() {
        let code = |text: &str| {
            let found = faults_of(&format!(r#"{{"value":{text}}}"#), |fields| {
                fields.required("value").integer(1..=i64::MAX);
            });
            found.first().map(|(_, code)| code.clone())
        };
        assert_eq!(code("1"), None);
        assert_eq!(code("9223372036854775807"), None);
        assert_eq!(code("0").as_deref(), Some("out-of-range"));
        assert_eq!(code("-1").as_deref(), Some("out-of-range"));
        assert_eq!(code("9223372036854775808").as_deref(), Some("out-of-range"));
        assert_eq!(
            code("99999999999999999999999").as_deref(),
            Some("out-of-range")
        );
        assert_eq!(code("1.5").as_deref(), Some("not-an-integer"));
        assert_eq!(code("1e3").as_deref(), Some("not-an-integer"));
        assert_eq!(code("\"100\"").as_deref(), Some("type"));
    }

    #[test]
    fn duplicates_are_refused_at_any_depth() {
        let found = faults_of(r#"{"a":{"b":1,"b":2},"a":[{"c":1,"c":1}]}"#, |fields| {
            fields.optional("a").raw_object();
        });
        assert_eq!(
            found,
            vec![
                pair("/a/b", "duplicate-field"),
                pair("/a", "duplicate-field"),
                pair("/a/0/c", "duplicate-field")
            ]
        );
    }

    #[test]
    fn the_list_of_faults_is_bounded() {
        let members: Vec<_> = (0..1000).map(|n| format!(r#""x{n}":1"#)).collect();
        let found = faults_of(&format!("{{{}}}", members.join(",")), |_| {});
        assert_eq!(found.len(), ERROR_COUNT_MAX);
    }

    #[test]
    fn the_body_itself_must_be_an_object() {
        assert_eq!(faults_of("[]", |_| unreachable!()), vec![pair("", "type")]);
    }
}
