//! The fields of spans as the JSON log keeps them: each is written once, a later one behind the others.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, FormattedFields};

/// In the place of tracing-subscriber's own, which reads everything back and writes it anew for each field that a span
/// learns later. Every payment has five of those, and hardly any is ever logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpanFields;

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        writer.write_char('{')?;
        Members::put(&mut writer, true, fields)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let text = &mut current.fields;
        // The end of the object, unless there is none yet.
        if text.pop().is_none() {
            text.push('{');
        }
        let is_first = text.len() == 1;
        Members::put(text, is_first, fields)
    }
}

/// Members of a JSON object that is open. Of two with one name a reader takes the last, which is the newest.
struct Members<'a> {
    text: &'a mut dyn Write,
    is_first: bool,
    written: fmt::Result,
}

impl<'a> Members<'a> {
    /// Writes them, and closes the object.
    fn put(text: &'a mut dyn Write, is_first: bool, fields: impl RecordFields) -> fmt::Result {
        let mut members = Members {
            text,
            is_first,
            written: Ok(()),
        };
        fields.record(&mut members);
        members.written?;
        members.text.write_char('}')
    }

    fn member(&mut self, field: &Field, value: fmt::Arguments<'_>, is_text: bool) {
        if self.written.is_ok() {
            self.written = self.try_member(field.name(), value, is_text);
        }
    }

    fn try_member(&mut self, name: &str, value: fmt::Arguments<'_>, is_text: bool) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.text.write_char(',')?;
        }
        self.text.write_char('"')?;
        // As a field may be written in a span's macro: r#type.
        Escaped(self.text).write_str(name.strip_prefix("r#").unwrap_or(name))?;
        self.text.write_str("\":")?;
        if !is_text {
            return self.text.write_fmt(value);
        }
        self.text.write_char('"')?;
        Escaped(self.text).write_fmt(value)?;
        self.text.write_char('"')
    }
}

impl Visit for Members<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, format_args!("{value:?}"), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, format_args!("{value}"), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, format_args!("{value}"), false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, format_args!("{value}"), false);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, format_args!("{value}"), false);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for the others.
        self.member(field, format_args!("{value:?}"), !value.is_finite());
    }
}

/// Between the quotes of a JSON text (RFC 8259, 7).
struct Escaped<'a>(&'a mut dyn Write);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let must_be_escaped = |c: char| matches!(c, '"' | '\\' | '\0'..='\u{1f}');
        while let Some(at) = rest.find(must_be_escaped) {
            self.0.write_str(&rest[..at])?;
            // All of them have one byte.
            let escaped = rest.as_bytes()[at];
            match escaped {
                b'"' | b'\\' => {
                    self.0.write_char('\\')?;
                    self.0.write_char(char::from(escaped))?;
                }
                control => write!(self.0, "\\u{control:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing::field::{Empty, display};
    use tracing_subscriber::Layer;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Sink {
        fn lines(&self) -> Vec<Value> {
            let bytes = self.0.lock().expect("not poisoned");
            let mut lines: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
                .into_iter()
                .collect::<Result<_, _>>()
                .expect("JSON");
            for line in &mut lines {
                line.as_object_mut().expect("a line").remove("timestamp");
            }
            lines
        }
    }

    #[test]
    fn a_line_tells_of_its_span_what_it_told_before() {
        let (ours, theirs) = (Sink::default(), Sink::default());
        let lines = || {
            let layer = tracing_subscriber::fmt::layer().json();
            layer.flatten_event(true).with_span_list(false)
        };
        let subscriber = tracing_subscriber::registry().with(vec![
            lines()
                .fmt_fields(SpanFields)
                .with_writer(ours.clone())
                .boxed(),
            lines().with_writer(theirs.clone()).boxed(),
        ]);
        tracing::subscriber::with_default(subscriber, || {
            let odd = "a \"quoted\\ text\n\u{1}é\u{7f}";
            let span = tracing::info_span!(
                "request",
                http.route = odd,
                number = -3,
                fraction = 0.5,
                endless = f64::MAX,
                is_so = true,
                error.r#type = Empty,
                later = Empty,
                twice = Empty,
                described = ?odd,
            );
            span.in_scope(|| tracing::info!("first"));
            span.record("later", display(odd));
            span.record("error.type", 18_446_744_073_709_551_615_u64);
            span.record("twice", "old");
            span.record("twice", "new");
            span.in_scope(|| tracing::info!("second"));
            let empty = tracing::info_span!("empty", later = Empty);
            empty.in_scope(|| tracing::info!("third"));
            empty.record("later", 1);
            empty.in_scope(|| tracing::info!("fourth"));
        });
        let told = ours.lines();
        assert_eq!(told, theirs.lines());
        assert_eq!(told[1]["span"]["twice"], "new");
        assert_eq!(told[3]["span"], json!({ "name": "empty", "later": 1 }));
    }
}
