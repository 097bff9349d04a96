//! What is accepted, what is refused, and that the reference in `config/` tells the truth.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::*;

const REFERENCE: &str = include_str!("../../../../config/reference.toml");
const PRODUCTION: &str = include_str!("../../../../config/production.toml");
const EXAMPLE: &str = include_str!("../../../../config/example.toml");

fn reference() -> Table {
    REFERENCE.parse().expect("TOML")
}

/// The table at a path of keys.
fn at<'t>(table: &'t mut Table, path: &[&str]) -> &'t mut Table {
    path.iter().fold(table, |table, key| {
        table[*key].as_table_mut().expect("a table")
    })
}

/// The reference with one value set.
fn faults_with(path: &[&str], key: &str, value: impl Into<Value>) -> Vec<String> {
    let mut table = reference();
    at(&mut table, path).insert(key.into(), value.into());
    faults_of(&table)
}

fn faults_of(table: &Table) -> Vec<String> {
    match Config::parse(&table.to_string()) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Faults(faults)) => faults,
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn the_files_beside_the_code_are_valid() {
    for (name, text) in [
        ("reference", REFERENCE),
        ("production", PRODUCTION),
        ("example", EXAMPLE),
    ] {
        if let Err(error) = Config::parse(text) {
            panic!("config/{name}.toml: {error}");
        }
    }
}

#[test]
fn the_reference_spells_out_the_defaults() {
    let required: [(&[&str], &[&str]); 5] = [
        (&["auth"], &["issuer", "audience", "key_file"]),
        (&["ledger"], &["url", "password_file"]),
        (&["keys"], &["fingerprint_file", "token_file"]),
        (&["clients", "shop"], &["subjects"]),
        (
            &["accounts", "acme-us"],
            &[
                "upstream",
                "base_url",
                "currencies",
                "device_guid",
                "merchant_guid",
                "username_file",
                "password_file",
                "ca_file",
                "late_arrival_horizon",
            ],
        ),
    ];
    let mut least = reference();
    for (path, keys) in required {
        at(&mut least, path).retain(|key, _| keys.contains(&key));
    }
    // Optional, and without a default.
    at(&mut least, &["server"]).retain(|key, _| matches!(key, "tls" | "metrics_listen"));
    at(&mut least, &["server", "tls"]).remove("reload_every");
    at(&mut least, &["lock"]).retain(|key, _| key == "password_file");
    at(&mut least, &["telemetry"]).retain(|key, _| key == "traces");
    at(&mut least, &["telemetry", "traces"]).retain(|key, _| key == "endpoint");
    for whole in ["payments", "resolver"] {
        least.remove(whole);
    }
    let parse = |table: &Table| Config::parse(&table.to_string()).expect("valid");
    assert_eq!(parse(&least), parse(&reference()));
}

/// serde names the fields of a struct when it refuses one.
fn fields_at(path: &[&str]) -> BTreeSet<String> {
    let mut table = reference();
    at(&mut table, path).insert("surprise".into(), 1.into());
    let error = Config::parse(&table.to_string())
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("unknown field `surprise`"),
        "{path:?}: {error}"
    );
    let names = error
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| *name != "surprise");
    names.map(str::to_owned).collect()
}

#[test]
fn the_reference_documents_every_key_and_unknown_ones_are_refused_by_name() {
    let tables: [&[&str]; 14] = [
        &["server"],
        &["server", "tls"],
        &["telemetry"],
        &["telemetry", "traces"],
        &["auth"],
        &["clients", "shop"],
        &["ledger"],
        &["lock"],
        &["keys"],
        &["payments"],
        &["resolver"],
        &["accounts", "acme-us"],
        &["accounts", "acme-us", "breaker"],
        &["accounts", "acme-us", "strategy"],
    ];
    for path in tables {
        let mut table = reference();
        let documented: BTreeSet<String> = at(&mut table, path).keys().cloned().collect();
        for field in fields_at(path).difference(&documented) {
            // The alternatives stand in the comments.
            let in_comment = REFERENCE.contains(&format!("Or {field}."))
                || REFERENCE.contains(&format!("# {field} = "));
            assert!(in_comment, "{path:?}.{field} is not documented");
        }
    }
    assert!(Config::parse(&format!("surprise = 1\n{REFERENCE}")).is_err());
}

#[test]
fn every_line_of_the_reference_has_a_comment() {
    for line in REFERENCE
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'))
    {
        assert!(line.contains(" # "), "{line}");
    }
}

#[test]
fn all_faults_are_named_at_once() {
    let mut table = reference();
    at(&mut table, &["server"]).insert("body_bytes_max".into(), 1.into());
    at(&mut table, &["ledger"]).insert("writers".into(), 0.into());
    at(&mut table, &["accounts", "acme-us"]).insert("late_arrival_horizon".into(), "1s".into());
    let faults = faults_of(&table);
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(
        faults[0].starts_with("server.body_bytes_max") && faults[1].starts_with("ledger.writers")
    );
    assert!(faults[2].starts_with("accounts.acme-us.late_arrival_horizon"));
}

#[test]
fn values_are_looked_at_together() {
    let account = ["accounts", "acme-us"].as_slice();
    let cases = [
        // Not above 1m + 2m: something sent may still arrive.
        (
            account,
            "late_arrival_horizon",
            "3m".into(),
            "late_arrival_horizon must exceed",
        ),
        (
            account,
            "late_arrival_horizon",
            "401d".into(),
            "must be below payments.retention",
        ),
        (account, "timeout", "5s".into(), "connect_timeout"),
        (account, "connection_age_max", "2m".into(), "a third of"),
        (account, "warm_min", 81.into(), "warm_min"),
        (
            account,
            "concurrency_max",
            80.into(),
            "connections_per_host must exceed",
        ),
        (
            account,
            "currencies",
            vec!["USD", "EUR"].into(),
            "exactly one",
        ),
        (
            account,
            "base_url",
            "http://salesapi.connexpay.com/api/v1".into(),
            "https://",
        ),
        (
            account,
            "device_guid",
            "terminal 2".into(),
            "device_guid must be a GUID",
        ),
        (
            account,
            "base_url",
            "https://user:pass@host/".into(),
            "password",
        ),
        (account, "username_env", "BOTH".into(), "exclude each other"),
        (
            &["server"],
            "request_timeout_max",
            "1m".into(),
            "callers must not leave first",
        ),
        (&["server"], "plaintext", true.into(), "exclude each other"),
        (
            &["server"],
            "metrics_listen",
            "127.0.0.1:8080".into(),
            "metrics_listen",
        ),
        (
            &["ledger"],
            "url",
            "postgres://me:hunter2@host/db".into(),
            "must not hold a password",
        ),
        (
            &["ledger"],
            "url",
            "mysql://host/db".into(),
            "must begin with postgres://",
        ),
        (
            &["ledger"],
            "lock_timeout",
            "11s".into(),
            "never be reached",
        ),
        (&["ledger"], "queue_max", 9_999.into(), "must find a place"),
        (&["lock"], "url", "memcached://host".into(), "lock.url"),
        (
            &["payments"],
            "permits_per_client_max",
            10_001.into(),
            "permits_per_client_max",
        ),
        (
            &["payments"],
            "waiting_per_client_max",
            10_001.into(),
            "waiting_per_client_max",
        ),
        (&["resolver"], "gap_max", "900ms".into(), "gap_max"),
        (&["resolver"], "silent_after", "3s".into(), "silent_after"),
        (
            &["resolver"],
            "schedule",
            vec!["5s", "2s"].into(),
            "must ascend",
        ),
        (
            &["auth"],
            "jwks_url",
            "https://idp/keys".into(),
            "exactly one",
        ),
        (
            &["auth"],
            "algorithms",
            vec!["HS256"].into(),
            "unknown variant",
        ),
        (&["telemetry"], "log", "info,,=".into(), "telemetry.log"),
        (
            &["telemetry", "traces"],
            "endpoint",
            "collector:4318".into(),
            "traces.endpoint",
        ),
        (
            &["telemetry", "traces"],
            "endpoint",
            "https://us:hunter2@collector".into(),
            "password",
        ),
        (
            &["telemetry", "traces"],
            "sampled",
            1.5.into(),
            "traces.sampled",
        ),
        (
            &["telemetry", "traces"],
            "sampled",
            f64::NAN.into(),
            "traces.sampled",
        ),
        (
            &["telemetry", "traces"],
            "queue_max",
            511.into(),
            "traces.queue_max",
        ),
    ] as [(&[&str], &str, Value, &str); 32];
    for (path, key, value, wanted) in cases {
        let shown = format!("{path:?}.{key} = {value}");
        let faults = faults_with(path, key, value);
        assert!(
            faults.len() == 1 && faults[0].contains(wanted),
            "{shown}: {faults:#?}"
        );
        assert!(
            !faults[0].contains("hunter2") && !faults[0].contains("pass@"),
            "{faults:?}"
        );
    }
}

#[test]
fn plain_http_needs_loopback_or_a_word() {
    let mut table = reference();
    at(&mut table, &["server"]).remove("tls");
    let mut listen = |address: &str, plaintext: bool| {
        let server = at(&mut table, &["server"]);
        server.insert("listen".into(), address.into());
        server.insert("plaintext".into(), plaintext.into());
        faults_of(&table)
    };
    assert!(listen("127.0.0.1:80", false).is_empty());
    assert!(listen("[::1]:80", false).is_empty());
    assert_eq!(listen("0.0.0.0:80", false).len(), 1);
    assert!(listen("0.0.0.0:80", true).is_empty());
}

#[test]
fn plain_metrics_need_loopback_or_a_word_too() {
    let metrics = |address: &str, word: bool| {
        let mut table = reference();
        let server = at(&mut table, &["server"]);
        server.insert("metrics_listen".into(), address.into());
        server.insert("metrics_plaintext".into(), word.into());
        faults_of(&table)
    };
    assert!(metrics("127.0.0.1:9464", false).is_empty());
    assert!(metrics("[::1]:9464", false).is_empty());
    let faults = metrics("0.0.0.0:9464", false);
    assert!(
        faults.len() == 1 && faults[0].contains("metrics_plaintext"),
        "{faults:?}"
    );
    assert!(metrics("0.0.0.0:9464", true).is_empty());
}

#[test]
fn an_embedded_ledger_is_a_file() {
    let faults = |url: &str| {
        let mut table = reference();
        let ledger = at(&mut table, &["ledger"]);
        ledger.insert("url".into(), url.into());
        ledger.remove("password_file");
        faults_of(&table).len()
    };
    assert_eq!(
        sqlite_path("sqlite:///var/x.db"),
        Some(Path::new("/var/x.db"))
    );
    assert_eq!(sqlite_path("sqlite://x.db"), Some(Path::new("x.db")));
    assert_eq!(sqlite_path("postgres://x"), None);
    assert_eq!(
        [faults("sqlite:///var/x.db"), faults("sqlite:x.db")],
        [0, 0]
    );
    for refused in ["sqlite::memory:", "sqlite://", "sqlite://x.db?mode=memory"] {
        assert_eq!(faults(refused), 1, "{refused}");
    }
}

#[test]
fn a_subject_belongs_to_one_client() {
    let mut table = reference();
    let twin = at(&mut table, &["clients", "shop"]).clone();
    at(&mut table, &["clients"]).insert("other".into(), Value::Table(twin));
    let faults = faults_of(&table);
    assert!(
        faults.len() == 1 && faults[0].contains("listed twice"),
        "{faults:?}"
    );
}

#[test]
fn a_form_error_names_its_line_and_quotes_nothing() {
    let text = "[ledger]\nurl = \"sqlite://x\"\npassword = \"hunter2\"\n";
    let error = Config::parse(&format!(
        "{}\n{text}",
        EXAMPLE.split("[ledger]").next().expect("a part")
    ));
    let error = error.expect_err("refused").to_string();
    assert!(
        error.contains("unknown field `password`") && error.starts_with("line "),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn what_cannot_be_read_is_listed_at_once() {
    let config = Config::parse(REFERENCE).expect("valid");
    let faults = config.unreadable();
    for name in [
        "ledger.password",
        "keys.fingerprint",
        "keys.token",
        "accounts.acme-us.username",
        "server.tls.key_file",
        "auth.key_file",
    ] {
        assert!(
            faults.iter().any(|fault| fault.starts_with(name)),
            "{name}: {faults:#?}"
        );
    }
}

#[test]
fn an_unlisted_code_is_unknown_or_a_decline() {
    let strategy = ["accounts", "acme-us", "strategy"];
    for known in ["unknown", "declined"] {
        assert_eq!(faults_with(&strategy, "unlisted_code", known), [""; 0]);
    }
    let faults = faults_with(&strategy, "unlisted_code", "approved");
    assert!(faults[0].contains("`unknown` or `declined`"), "{faults:?}");
}
