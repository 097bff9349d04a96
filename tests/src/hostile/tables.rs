//! Tables of codes, and the texts that are looked up in them.

use gateway_upstream::connexpay::codes_contract::{read, table};

/// One text, as a table and as what the processor says.
pub(super) fn code_tables(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rows: Vec<[&str; 4]> = table(text);
    assert!(rows.len() <= text.lines().count());
    if rows.iter().flatten().all(|field| !field.contains('"')) {
        let lines = rows.iter().map(|fields| {
            let fields = fields.map(|field| format!("\"{field}\""));
            fields.join(",") + "\n"
        });
        let written = format!("heading\n{}", lines.collect::<String>());
        assert_eq!(table::<4>(&written), rows, "its own writing");
    }
    let (code, listed) = read(text);
    if let Some(code) = code {
        assert!(code.len() <= 8 && text.contains(code));
    }
    // Case, and spaces around, change no meaning.
    let (_, shouted) = read(&format!("  {} ", text.to_ascii_uppercase()));
    if text.len() < 900 {
        assert_eq!(shouted, listed);
    }
}
