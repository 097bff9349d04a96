//! The tools of these tests do what they say: otherwise a test could pass because nothing was broken at all.

use std::process::Command;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use rustix::process::{Pid, test_kill_process};
use sandbox::stack::{
    Algorithm, Databases, JwksServer, Moment, PostgresServer, Process, RedisServer, StackError,
    TcpProxy, TempDir, TestKey, eventually, jwks, token_signed_with_secret, unsigned_token,
};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may happen before we believe that nothing does.
const QUIET: Duration = Duration::from_millis(200);

#[test]
fn a_folder_ends_with_the_test_that_made_it() -> Result<(), StackError> {
    let (first, second) = (TempDir::new("harness")?, TempDir::new("harness")?);
    assert_ne!(first.path(), second.path());
    std::fs::write(first.path().join("file"), "content").expect("writing into a new folder");
    let path = first.path().to_owned();
    drop(first);
    assert!(!path.exists());
    assert!(second.path().is_dir());
    Ok(())
}

#[tokio::test]
async fn a_wait_ends_with_the_answer_or_says_what_it_waited_for() -> Result<(), StackError> {
    let mut asked = 0;
    let answer = eventually(PATIENCE, "the third question", async || {
        asked += 1;
        (asked == 3).then_some("here")
    });
    assert_eq!(answer.await?, "here");

    let never = eventually(
        Duration::from_millis(20),
        "pigs to fly",
        async || None::<()>,
    );
    assert_eq!(
        format!("{:?}", never.await.expect_err("it never answers")),
        "not within 20ms: pigs to fly"
    );

    // A question that is never answered does not outlast the deadline either.
    let hangs = eventually(
        Duration::from_millis(20),
        "an answer",
        std::future::pending::<Option<()>>,
    );
    assert!(hangs.await.is_err());
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_is_stopped_goes_on_and_is_killed_with_its_owner() -> Result<(), StackError> {
    let state = |process: &Process| {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .expect("a state, see proc(5)")
    };
    let folder = TempDir::new("harness")?;
    let process = Process::spawn("sleeper", folder.path(), Command::new("sleep").arg("1000"))?;
    for _ in 0..3 {
        process.stop().await?;
        assert_eq!(state(&process), 'T');
        process.resume().await?;
        assert_ne!(state(&process), 'T');
    }
    process.stop().await?; // Even a stopped process is killed.
    let id = Pid::from_raw(process.id().cast_signed()).expect("no process has the id 0");
    assert!(test_kill_process(id).is_ok());
    drop(process);
    assert!(test_kill_process(id).is_err());
    Ok(())
}

#[tokio::test]
async fn a_process_tells_how_it_ended_and_what_it_said() -> Result<(), StackError> {
    let folder = TempDir::new("harness")?;
    let mut command = Command::new("sh");
    command.args(["-c", "echo out; echo err >&2; exit 3"]);
    for run in 1..=2 {
        let mut process = Process::spawn("talker", folder.path(), &mut command)?;
        assert_eq!(process.wait(PATIENCE).await?.code(), Some(3));
        assert_eq!(
            process.output()?,
            format!("{}{}", "out\n".repeat(run), "err\n".repeat(run))
        );
    }
    let missing = Process::spawn(
        "nobody",
        folder.path(),
        &mut Command::new("/no/such/program"),
    );
    assert!(format!("{:?}", missing.expect_err("no such program")).starts_with("starting nobody"));
    Ok(())
}

#[tokio::test]
async fn redis_is_flushed_stopped_and_comes_back_empty_on_its_port() -> Result<(), StackError> {
    async fn get(url: &str) -> redis::RedisResult<Option<String>> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("GET")
            .arg("key")
            .query_async(&mut connection)
            .await
    }
    async fn set(url: &str) -> redis::RedisResult<()> {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("SET")
            .arg("key")
            .arg("value")
            .query_async(&mut connection)
            .await
    }
    let mut server = RedisServer::start_new().await?;
    let url = server.url();

    set(&url).await.expect("Redis takes a key");
    assert_eq!(
        get(&url).await.expect("Redis answers").as_deref(),
        Some("value")
    );
    server.flush().await?;
    assert_eq!(get(&url).await.expect("Redis answers"), None);

    set(&url).await.expect("Redis takes a key");
    server.stop()?;
    assert!(get(&url).await.is_err());
    server.start().await?;
    assert_eq!(server.url(), url);
    assert_eq!(get(&url).await.expect("Redis answers"), None);
    Ok(())
}

async fn postgres(url: &str) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.connect().await
}

async fn notes(url: &str) -> Vec<String> {
    let mut connection = postgres(url).await.expect("Postgres answers");
    sqlx::query_scalar("select text from note order by text")
        .fetch_all(&mut connection)
        .await
        .expect("a table")
}

async fn create_notes(url: &str) -> sqlx::Result<()> {
    let mut connection = postgres(url).await?;
    sqlx::query("create table note (text text not null)")
        .execute(&mut connection)
        .await?;
    connection.close().await
}

const INSERT: &str = "insert into note (text) values ($1)";

#[tokio::test]
async fn postgres_stops_at_once_and_comes_back_with_what_was_committed() -> Result<(), StackError> {
    let mut server = PostgresServer::start_new().await?;
    let url = server.admin_url();
    create_notes(&url).await.expect("a new table");
    let mut connection = postgres(&url).await.expect("Postgres answers");
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .expect("a setting");
        assert_eq!(value, "on", "{setting}");
    }
    sqlx::query(INSERT)
        .bind("committed")
        .execute(&mut connection)
        .await
        .expect("an insert");
    let mut transaction = connection.begin().await.expect("a transaction");
    sqlx::query(INSERT)
        .bind("lost")
        .execute(&mut *transaction)
        .await
        .expect("an insert");

    server.stop_immediate().await?;
    assert!(transaction.commit().await.is_err());
    assert!(postgres(&url).await.is_err());

    server.start().await?;
    assert_eq!(server.admin_url(), url);
    assert_eq!(notes(&url).await, ["committed"]);
    Ok(())
}

#[tokio::test]
async fn every_database_is_its_own_and_ends_with_its_test() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let (first, second) = (databases.create().await?, databases.create().await?);
    let mut connection = postgres(first.url())
        .await
        .expect("the new database answers");
    sqlx::query(INSERT)
        .bind("mine")
        .execute(&mut connection)
        .await
        .expect("the table was migrated");
    assert_eq!(notes(first.url()).await, ["mine"]);
    assert_eq!(notes(second.url()).await, [""; 0]);

    let url = first.url().to_owned();
    drop(first); // Though `connection` is still open.
    assert!(postgres(&url).await.is_err());
    assert_eq!(notes(second.url()).await, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_database_that_a_killed_run_left_behind_is_removed_by_a_later_run()
-> Result<(), StackError> {
    let server = PostgresServer::start_new().await?;
    let mut connection = postgres(&server.admin_url())
        .await
        .expect("Postgres answers");
    for name in ["quittance_test_1700000000_1_0_0", "somebody_elses"] {
        let create = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::query(create)
            .execute(&mut connection)
            .await
            .expect("a new database");
    }
    let databases = Databases::at(&server.admin_url(), create_notes).await?;
    let young = databases.create().await?;
    Databases::at(&server.admin_url(), create_notes).await?;

    assert!(
        postgres(&server.url("quittance_test_1700000000_1_0_0"))
            .await
            .is_err()
    );
    assert!(postgres(&server.url("somebody_elses")).await.is_ok());
    assert!(postgres(young.url()).await.is_ok());
    Ok(())
}

/// A server behind a proxy, and one connection through both.
struct Line {
    proxy: TcpProxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Line {
    async fn new() -> Result<Self, StackError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let proxy = TcpProxy::start(address.to_string()).await?;
        let (client, server) = Self::connect(&proxy, &listener).await;
        Ok(Self {
            proxy,
            listener,
            client,
            server,
        })
    }

    async fn connect(proxy: &TcpProxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(proxy.address())
            .await
            .expect("the proxy accepts");
        let (server, _) = listener.accept().await.expect("the proxy connects");
        (client, server)
    }

    async fn another(&self) -> (TcpStream, TcpStream) {
        Self::connect(&self.proxy, &self.listener).await
    }
}

async fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.expect("the connection is open");
    arrives(to, bytes).await;
}

async fn arrives(to: &mut TcpStream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    timeout(PATIENCE, to.read_exact(&mut received))
        .await
        .expect("in time")
        .expect("the connection is open");
    assert_eq!(received, bytes);
}

async fn hears_nothing(stream: &mut TcpStream) {
    let heard = timeout(QUIET, stream.read_u8()).await;
    assert!(heard.is_err(), "{heard:?}");
}

async fn is_reset(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read_u8())
        .await
        .expect("the connection ends in time");
    let error = read.expect_err("the connection is broken");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_proxy_forwards_both_ways_and_counts() -> Result<(), StackError> {
    let mut line = Line::new().await?;
    passes(&mut line.client, &mut line.server, b"question").await;
    passes(&mut line.server, &mut line.client, &vec![7; 1_000_000]).await;
    let (second, _second_server) = line.another().await;
    assert_eq!(
        (line.proxy.accepted_count(), line.proxy.open_count()),
        (2, 2)
    );

    // One side may finish before the other.
    line.client
        .shutdown()
        .await
        .expect("the connection is open");
    assert_eq!(line.server.read(&mut [0]).await.expect("an orderly end"), 0);
    passes(&mut line.server, &mut line.client, b"answer").await;
    line.server
        .shutdown()
        .await
        .expect("the connection is open");
    assert_eq!(line.client.read(&mut [0]).await.expect("an orderly end"), 0);
    eventually(PATIENCE, "one open connection", async || {
        (line.proxy.open_count() == 1).then_some(())
    })
    .await?;
    drop(second);
    Ok(())
}

#[tokio::test]
async fn a_cut_resets_both_sides_and_lets_new_connections_in() -> Result<(), StackError> {
    let mut line = Line::new().await?;
    passes(&mut line.client, &mut line.server, b"hello").await;
    line.proxy.cut().await;
    assert_eq!(line.proxy.open_count(), 0);
    is_reset(&mut line.client).await;
    is_reset(&mut line.server).await;

    let (mut client, mut server) = line.another().await;
    passes(&mut client, &mut server, b"again").await;
    assert_eq!(
        (line.proxy.accepted_count(), line.proxy.open_count()),
        (2, 1)
    );
    Ok(())
}

#[tokio::test]
async fn a_pause_holds_everything_back_and_loses_nothing() -> Result<(), StackError> {
    let mut line = Line::new().await?;
    line.proxy.pause();
    line.client
        .write_all(b"question")
        .await
        .expect("the connection is open");
    line.server
        .write_all(b"unasked")
        .await
        .expect("the connection is open");
    let mut second = TcpStream::connect(line.proxy.address())
        .await
        .expect("the proxy accepts");
    second
        .write_all(b"second")
        .await
        .expect("the connection is open");
    hears_nothing(&mut line.server).await;
    hears_nothing(&mut line.client).await;

    line.proxy.resume();
    arrives(&mut line.server, b"question").await;
    arrives(&mut line.client, b"unasked").await;
    let (mut second_server, _) = line.listener.accept().await.expect("the proxy connects");
    arrives(&mut second_server, b"second").await;

    line.proxy.pause(); // What is paused can still be cut.
    line.proxy.cut().await;
    is_reset(&mut line.client).await;
    Ok(())
}

#[tokio::test]
async fn with_its_server_away_a_proxy_resets_connections_and_stays() -> Result<(), StackError> {
    let mut line = Line::new().await?;
    let address = line
        .listener
        .local_addr()
        .expect("a bound socket has an address");
    drop(line.listener);
    let mut refused = TcpStream::connect(line.proxy.address())
        .await
        .expect("the proxy accepts");
    is_reset(&mut refused).await;
    passes(&mut line.client, &mut line.server, b"still here").await;

    line.listener = TcpListener::bind(address)
        .await
        .expect("the port is free again");
    let (mut client, mut server) = line.another().await;
    passes(&mut client, &mut server, b"back").await;
    Ok(())
}

#[tokio::test]
async fn an_answer_is_lost_after_its_request_arrived() -> Result<(), StackError> {
    let mut line = Line::new().await?;
    let (mut other_client, mut other_server) = line.another().await;
    let trap = line.proxy.cut_after_forwarding_matching(b"COMMIT");

    // The pattern may come in two pieces, and everything before it passes as ever.
    passes(&mut line.client, &mut line.server, b"COM").await;
    passes(&mut line.server, &mut line.client, b"go on").await;
    passes(&mut line.client, &mut line.server, b"MIT;").await;
    passes(&mut line.client, &mut line.server, b"more").await;
    assert!(!trap.has_sprung());
    line.server
        .write_all(b"done")
        .await
        .expect("the connection is open");
    trap.sprung().await;
    is_reset(&mut line.client).await;
    is_reset(&mut line.server).await;

    // It springs once: the same words pass on another connection.
    passes(&mut other_client, &mut other_server, b"COMMIT").await;
    passes(&mut other_server, &mut other_client, b"done").await;
    Ok(())
}

#[tokio::test]
async fn a_trap_ignores_what_passed_before_it_was_set_and_is_disarmed_by_dropping_it()
-> Result<(), StackError> {
    let mut line = Line::new().await?;
    passes(&mut line.client, &mut line.server, b"COMMIT").await;
    let trap = line.proxy.cut_at(Moment::BeforeRequest, b"COMMIT");
    passes(&mut line.client, &mut line.server, b" and go on").await;
    drop(trap);
    passes(&mut line.client, &mut line.server, b"COMMIT").await;

    let trap = line.proxy.cut_at(Moment::BeforeRequest, b"COMMIT");
    line.client
        .write_all(b"COMMIT")
        .await
        .expect("the connection is open");
    trap.sprung().await;
    is_reset(&mut line.client).await;
    is_reset(&mut line.server).await;
    Ok(())
}

/// Inserts one note in a transaction, through the proxy.
async fn insert_note(url: &str, text: &str) -> sqlx::Result<()> {
    let mut connection = postgres(url).await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(INSERT)
        .bind(text)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

#[tokio::test]
async fn a_commit_happens_although_its_acknowledgement_is_lost() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let database = databases.create().await?;
    let proxy = TcpProxy::start(database.server_address()?).await?;
    let through = database.url_through(proxy.port());

    insert_note(&through, "untouched")
        .await
        .expect("nothing is set yet");
    let trap = proxy.cut_at(Moment::after_commit(), b"COMMIT");
    assert!(insert_note(&through, "acknowledgement lost").await.is_err());
    assert!(trap.has_sprung());
    assert_eq!(
        notes(database.url()).await,
        ["acknowledgement lost", "untouched"]
    );

    let trap = proxy.cut_at(Moment::BeforeRequest, b"COMMIT");
    assert!(insert_note(&through, "never committed").await.is_err());
    assert!(trap.has_sprung());
    assert_eq!(
        notes(database.url()).await,
        ["acknowledgement lost", "untouched"]
    );
    Ok(())
}

#[tokio::test]
async fn a_commit_can_be_held_before_it_happens_and_after() -> Result<(), StackError> {
    let databases = Databases::from_environment(create_notes).await?;
    let database = databases.create().await?;
    let proxy = TcpProxy::start(database.server_address()?).await?;
    let through = database.url_through(proxy.port());
    for (moment, text, visible) in [
        (Moment::BeforeRequest, "first", false),
        (Moment::after_commit(), "second", true),
    ] {
        let trap = proxy.hold_at(moment, b"COMMIT");
        let through = through.clone();
        let inserting = tokio::spawn(async move { insert_note(&through, text).await });
        timeout(PATIENCE, trap.sprung())
            .await
            .expect("the commit is on its way");
        assert_eq!(
            notes(database.url()).await.contains(&text.to_owned()),
            visible
        );
        assert!(!inserting.is_finished());
        trap.release();
        inserting
            .await
            .expect("no panic")
            .expect("a held commit succeeds in the end");
        assert!(notes(database.url()).await.contains(&text.to_owned()));
    }
    Ok(())
}

const ALGORITHMS: [(Algorithm, jsonwebtoken::Algorithm); 3] = [
    (Algorithm::EdDsa, jsonwebtoken::Algorithm::EdDSA),
    (Algorithm::Es256, jsonwebtoken::Algorithm::ES256),
    (Algorithm::Rs256, jsonwebtoken::Algorithm::RS256),
];

fn accepts(key: &DecodingKey, algorithm: jsonwebtoken::Algorithm, token: &str) -> bool {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let decoded = jsonwebtoken::decode::<Value>(token, key, &validation);
    decoded.is_ok_and(|token| token.claims == json!({"sub": "tests"}))
}

#[test]
fn tokens_are_signed_as_their_header_says_and_forgeries_are_not() {
    let claims = json!({"sub": "tests"});
    for (algorithm, name) in ALGORITHMS {
        let (key, other) = (
            TestKey::generate(algorithm, "one"),
            TestKey::generate(algorithm, "one"),
        );
        let set: JwkSet = serde_json::from_value(jwks([&key])).expect("a JWKS");
        let from_jwk = DecodingKey::from_jwk(set.find("one").expect("its key")).expect("a key");
        let pem = key.public_pem();
        let from_pem = match algorithm {
            Algorithm::EdDsa => DecodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
        }
        .expect("a PEM file");
        let token = key.mint(&claims);
        let header = jsonwebtoken::decode_header(&token).expect("a header");
        assert_eq!((header.alg, header.kid.as_deref()), (name, Some("one")));
        for decoding in [&from_jwk, &from_pem] {
            assert!(accepts(decoding, name, &token), "{algorithm:?}");
            assert!(
                !accepts(decoding, name, &other.mint(&claims)),
                "{algorithm:?}"
            );
        }
        assert!(
            key.private_pem()
                .starts_with("-----BEGIN PRIVATE KEY-----\n")
        );

        // Forgeries are well formed: what refuses them is what they are.
        let forged = json!({"alg": "HS256", "typ": "JWT", "kid": "one"});
        let by_secret = token_signed_with_secret(pem.as_bytes(), &forged, &claims);
        let secret = DecodingKey::from_secret(pem.as_bytes());
        assert!(accepts(&secret, jsonwebtoken::Algorithm::HS256, &by_secret));
        assert!(!accepts(&from_jwk, name, &by_secret));
        let unsigned = unsigned_token(&json!({"alg": "none"}), &claims);
        assert!(unsigned.ends_with('.') && unsigned.split('.').count() == 3);
        assert!(!accepts(&from_jwk, name, &unsigned));
    }
}

#[tokio::test]
async fn the_key_server_serves_what_it_is_told_and_counts() -> Result<(), StackError> {
    async fn fetch(url: &str) -> (u16, Value) {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        let answer = client
            .get(url)
            .send()
            .await
            .expect("the key server answers");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }
    let (first, second) = (
        TestKey::generate(Algorithm::EdDsa, "1"),
        TestKey::generate(Algorithm::EdDsa, "2"),
    );
    let server = JwksServer::start([&first]).await?;
    assert_eq!(server.request_count(), 0);
    assert_eq!(fetch(&server.url()).await, (200, jwks([&first])));
    server.serve([&first, &second]);
    assert_eq!(fetch(&server.url()).await, (200, jwks([&first, &second])));
    server.answer_with(http::StatusCode::SERVICE_UNAVAILABLE, json!({}));
    assert_eq!(fetch(&server.url()).await, (503, json!({})));
    assert_eq!(server.request_count(), 3);
    Ok(())
}
