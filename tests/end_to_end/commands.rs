//! The product's own commands, run as an operator runs them: what each prints, refuses, and leaves behind.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind};
use sandbox::stack::{Databases, GatewayProcess, StackError, built_binary, eventually};
use sandbox::world::{Caller, Reply, World, sale};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// One command with its configuration file.
async fn gateway(command: &str, config: &Path, rest: &[&str]) -> Output {
    let mut gateway = Command::new(built_binary("gateway").expect("built"));
    gateway.arg(command).arg("--config").arg(config).args(rest);
    let ran = tokio::task::spawn_blocking(move || gateway.output()).await;
    ran.expect("no panic").expect("started")
}

/// What it printed, of a command that did what it was asked for.
#[track_caller]
fn told(output: &Output) -> String {
    let (said, complaint) = texts(output);
    assert!(output.status.success(), "{complaint}");
    assert_eq!(complaint, "");
    said
}

/// What it complained of: nothing was printed, and the shell is told.
#[track_caller]
fn refused(output: &Output) -> String {
    let (said, complaint) = texts(output);
    assert!(
        !output.status.success() && said.is_empty() && !complaint.is_empty(),
        "{} {said}",
        output.status
    );
    complaint
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr))
}

/// From an empty database to a payment that a person decided about, by commands alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_made_run_and_explained_by_commands() {
    let mut world = World::new().await;
    let empty = Databases::from_environment(async |_| Ok::<_, StackError>(())).await;
    let empty = empty.expect("a Postgres").create().await;
    let empty = empty.expect("an empty database");
    empty.url().clone_into(&mut world.config.ledger_url);
    let options = world.process_options("installed");
    let config = world.folder().join("gateway.toml");
    std::fs::write(&config, &options.config).expect("written");

    let checked = told(&gateway("check-config", &config, &[]).await);
    assert!(checked.ends_with("can be used\n"), "{checked}");
    let unready = refused(&gateway("serve", &config, &[]).await);
    assert!(unready.contains("gateway migrate"), "{unready}");
    for _ in 0..2 {
        let migrated = told(&gateway("migrate", &config, &[]).await);
        assert!(migrated.contains("schema"), "{migrated}");
    }

    let signer = world.folder().join("jwt.key");
    std::fs::write(&signer, world.key.private_pem()).expect("written");
    let signer = signer.display().to_string();
    let named = ["--key", signer.as_str(), "--subject"];
    let token = told(&gateway("token", &config, &[&named[..], &["shop-1"]].concat()).await);
    let stranger = gateway("token", &config, &[&named[..], &["nobody"]].concat()).await;
    assert!(refused(&stranger).contains("nobody"));

    let mut serving = GatewayProcess::start_new(options).await.expect("served");
    assert!(serving.leaves_no_core_file().expect("its limits"));
    let shop = Caller::new(serving.base_url(), token.trim());
    let parked = park(&world, &shop).await;
    let shown = told(&gateway("explain", &config, &[&parked]).await);
    assert!(
        shown.contains(": parked") && shown.contains("bytes written to 127.0.0.1:"),
        "{shown}"
    );

    let decide = [parked.as_str(), "--as", "failed", "--who", "Ann", "--why"];
    let pan = [
        &decide[..],
        &["card 4012000098765439 is not in their books"],
    ]
    .concat();
    refused(&gateway("resolve", &config, &pan).await);
    let approved = [&parked, "--as", "approved", "--who", "Ann", "--why", "seen"];
    let approved = refused(&gateway("resolve", &config, &approved).await);
    assert!(approved.contains("--upstream-reference"), "{approved}");
    let failed = [&decide[..], &["not in their books of that day"]].concat();
    let decided = told(&gateway("resolve", &config, &failed).await);
    assert_eq!(decided, format!("{parked} is failed now\n"));
    let again = refused(&gateway("resolve", &config, &failed).await);
    assert!(again.contains("only a parked one"), "{again}");

    let shown = told(&gateway("explain", &config, &[&parked]).await);
    assert!(
        shown.contains("parked → failed") && shown.contains("decided_by_a_person"),
        "{shown}"
    );
    let told_json = told(&gateway("explain", &config, &["--json", &parked]).await);
    let story: Value = serde_json::from_str(&told_json).expect("JSON");
    assert_eq!(story["operation"]["id"], parked.as_str());
    assert_eq!(story["operation"]["state"], "failed");
    assert_eq!(story["idempotency_key"], "lost");
    let timeline = story["timeline"].as_array().expect("a timeline");
    let evidence = timeline.last().map(|event| &event["evidence"]);
    assert_eq!(evidence.expect("an event")["who"], "Ann");
    for text in [&shown, &told_json] {
        assert!(!text.contains("4012000098765439"), "{text}");
    }
    shop.pay("lost", &sale(10_00)).await.expect(402);

    let charged = shop.pay("found", &sale(20_00)).await.expect(201);
    let shown = told(&gateway("explain", &config, &[&charged.operation()]).await);
    let reference = charged.body["operation"]["upstream_reference"].as_str();
    assert!(
        shown.contains(": approved") && shown.contains(reference.expect("a reference")),
        "{shown}"
    );
    let unknown = "op_00000000000000000000000000000000";
    let nothing = refused(&gateway("explain", &config, &[unknown]).await);
    assert!(nothing.contains(unknown), "{nothing}");
    world.audit().await;
}

/// A sale that never arrived, on an account where nothing proves that a search would have found it. Its operation's id.
async fn park(world: &World, shop: &Caller) -> String {
    let never = Fault::on(Kind::HangBeforeCommit, verb::SALE).first(1);
    let set = world.simulators.connexpay().set_fault(never).await;
    set.expect("in force");
    let parked = eventually(PATIENCE, "a parked operation", async || {
        let reply: Reply = shop.pay("lost", &sale(10_00)).await;
        (reply.problem() == "needs-review").then(|| reply.operation())
    });
    parked.await.expect("parked after the horizon")
}

/// Everything that would keep `serve` from starting is said at once, and nothing is connected to.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_refused_with_all_its_faults() {
    let mut world = World::on_sqlite().await;
    let folder = world.folder().to_owned();
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let nothing = put("nothing.pem", "no certificate\n");
    world.config.more_account = format!("ca_file = \"{nothing}\"\n");
    world.config.connexpay_url = "https://127.0.0.1:9/api/v1".into();
    world.config.ledger_url = format!("sqlite://{}/nowhere/ledger.db", folder.display());
    world.config.lock_url = "redis://127.0.0.1:9/not-a-number".into();
    world.config.more_server =
        format!("[server.tls]\ncertificate_file = \"{nothing}\"\nkey_file = \"{nothing}\"\n");
    let text = world.process_options("bad").config;
    let text = text.replace("currencies = [\"USD\"]", "currencies = [\"JPY\"]");
    for (name, content) in [
        ("token", "5a".repeat(16).as_str()),
        ("fingerprint", "short"),
        ("jwt.pem", "?"),
    ] {
        put(name, content);
    }
    let config = world.folder().join("gateway.toml");
    std::fs::write(&config, text).expect("written");

    let faults = refused(&gateway("check-config", &config, &[]).await);
    let named = [
        "keys.fingerprint",
        "keys.token",
        "auth.key_file",
        "server.tls",
        "ledger.url",
        "lock.url",
        "accounts.acme-us: pool acme-us: cannot read the trusted certificates",
        "accounts.acme-us: JPY",
    ];
    assert!(faults.contains("this one has 16 when decoded"), "{faults}");
    for name in named {
        let said = faults.lines().filter(|fault| fault.starts_with(name));
        assert_eq!(said.count(), 1, "{name} in:\n{faults}");
    }
    assert_eq!(faults.lines().count(), named.len(), "{faults}");
    refused(&gateway("serve", &config, &[]).await);

    // What cannot be read is said once, by its name.
    for name in ["token", "username"] {
        std::fs::remove_file(world.folder().join(name)).expect("removed");
    }
    let faults = refused(&gateway("check-config", &config, &[]).await);
    for name in ["keys.token", "accounts.acme-us.username"] {
        let said = faults.lines().filter(|fault| fault.starts_with(name));
        assert_eq!(said.count(), 1, "{name} in:\n{faults}");
    }
    assert!(!faults.contains("short"), "{faults}");
}
