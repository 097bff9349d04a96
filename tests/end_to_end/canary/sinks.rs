//! The places where something could be left: ledger, lock, and what spans and events say.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use sandbox::stack::eventually;
use sandbox::world::World;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::PATIENCE;
use super::search::Canary;

/// Bytes that somebody else appends to.
#[derive(Clone, Debug, Default)]
pub(super) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    pub(super) fn write(&self, bytes: &[u8]) {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Every row of every table as text; of SQLite the bytes of its files as well.
pub(super) async fn ledger(world: &World) -> Vec<u8> {
    let url = &world.config.ledger_url;
    let Some(path) = url.strip_prefix("sqlite://") else {
        return postgres(url).await.expect("a dump").into_bytes();
    };
    let mut dump = sqlite(path).await.expect("a dump").into_bytes();
    for file in [path.to_owned(), format!("{path}-wal")] {
        dump.extend(std::fs::read(file).unwrap_or_default());
    }
    dump
}

async fn postgres(url: &str) -> sqlx::Result<String> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'public'",
    )
    .fetch_all(&mut connection)
    .await?;
    assert!(tables.len() >= 7, "{tables:?}");
    let mut dump = String::new();
    for table in tables {
        let select = format!("select t::text from \"{table}\" t");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_all(&mut connection)
            .await?;
        writeln!(dump, "{table}\n{}", rows.join("\n")).expect("a string takes it");
    }
    connection.close().await?;
    Ok(dump)
}

async fn sqlite(path: &str) -> sqlx::Result<String> {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await?;
    let tables: Vec<String> =
        sqlx::query_scalar("select name from sqlite_master where type = 'table'")
            .fetch_all(&mut connection)
            .await?;
    assert!(tables.len() >= 7, "{tables:?}");
    let mut dump = String::new();
    for table in tables {
        let columns = format!("select name from pragma_table_info('{table}')");
        let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(columns))
            .fetch_all(&mut connection)
            .await?;
        // Blobs become hexadecimal, everything else is itself.
        let quoted = columns.iter().map(|column| format!("quote(\"{column}\")"));
        let quoted: Vec<String> = quoted.collect();
        let select = format!("select {} from \"{table}\"", quoted.join(" || ' ' || "));
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(select))
            .fetch_all(&mut connection)
            .await?;
        writeln!(dump, "{table}\n{}", rows.join("\n")).expect("a string takes it");
    }
    connection.close().await?;
    Ok(dump)
}

/// Puts bytes where the ledger keeps bytes.
pub(super) async fn plant_in_ledger(world: &World, bytes: &[u8]) {
    let url = &world.config.ledger_url;
    let planted = if let Some(path) = url.strip_prefix("sqlite://") {
        let options = SqliteConnectOptions::new().filename(path);
        let mut connection = options.connect().await.expect("a ledger");
        let insert = "insert into token (name, generation, ciphertext, issued_at, expires_at)
                      values ('planted', 1, ?1, 0, 0)";
        let query = sqlx::query(insert).bind(bytes);
        query.execute(&mut connection).await.map(drop)
    } else {
        let options: PgConnectOptions = url.parse().expect("a URL");
        let mut connection = options.connect().await.expect("a ledger");
        let insert = "insert into token (name, generation, ciphertext, issued_at, expires_at)
                      values ('planted', 1, $1, now(), now())";
        let query = sqlx::query(insert).bind(bytes);
        query.execute(&mut connection).await.map(drop)
    };
    planted.expect("planted");
}

/// Everything that anybody says to a Redis, from now on.
pub(super) async fn listen_to_redis(port: u16) -> Sink {
    let heard = Sink::default();
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("Redis");
    stream.write_all(b"MONITOR\r\n").await.expect("Redis");
    let sink = heard.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            sink.write(&buffer[..count]);
        }
    });
    let listening = eventually(PATIENCE, "Redis to tell what it hears", async || {
        heard.bytes().starts_with(b"+OK").then_some(())
    });
    listening.await.expect("Redis answers");
    heard
}

/// Every key of a Redis, with its value.
pub(super) async fn redis(url: &str) -> Vec<u8> {
    let client = redis::Client::open(url).expect("a URL");
    let connected = client.get_multiplexed_async_connection().await;
    let mut connection = connected.expect("Redis");
    let mut dump = Vec::new();
    let mut ask = async |command: &[&str]| -> redis::Value {
        let mut wanted = redis::cmd(command[0]);
        for argument in &command[1..] {
            wanted.arg(*argument);
        }
        wanted
            .query_async(&mut connection)
            .await
            .expect("an answer")
    };
    let keys: Vec<String> = redis::from_redis_value(ask(&["KEYS", "*"]).await).expect("names");
    for key in keys {
        let kind: String = redis::from_redis_value(ask(&["TYPE", &key]).await).expect("a name");
        let value = match kind.as_str() {
            "string" => ask(&["GET", &key]).await,
            "hash" => ask(&["HGETALL", &key]).await,
            "list" => ask(&["LRANGE", &key, "0", "-1"]).await,
            "set" => ask(&["SMEMBERS", &key]).await,
            "zset" => ask(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await,
            "stream" => ask(&["XRANGE", &key, "-", "+"]).await,
            other => panic!("{key} is a {other}, which this dump does not know"),
        };
        write_value(&mut dump, &redis::Value::SimpleString(key));
        write_value(&mut dump, &value);
    }
    dump
}

fn write_value(dump: &mut Vec<u8>, value: &redis::Value) {
    match value {
        redis::Value::BulkString(bytes) => dump.extend_from_slice(bytes),
        redis::Value::SimpleString(text) => dump.extend_from_slice(text.as_bytes()),
        redis::Value::Array(items) | redis::Value::Set(items) => {
            for item in items {
                write_value(dump, item);
            }
        }
        redis::Value::Map(pairs) => {
            for (name, value) in pairs {
                write_value(dump, name);
                write_value(dump, value);
            }
        }
        other => dump.extend_from_slice(format!("{other:?}").as_bytes()),
    }
    dump.push(b'\n');
}

/// Writes down each span and event with all its fields, whatever their level.
pub(super) struct Tap(pub(super) Sink);

impl Tap {
    fn note(&self, metadata: &tracing::Metadata<'_>, record: impl FnOnce(&mut Line)) {
        let mut line = Line(format!("{} {}", metadata.target(), metadata.name()));
        record(&mut line);
        line.0.push('\n');
        self.0.write(line.0.as_bytes());
    }
}

impl<S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> Layer<S>
    for Tap
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        self.note(attributes.metadata(), |line| attributes.record(line));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is being recorded");
        self.note(span.metadata(), |line| values.record(line));
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        self.note(event.metadata(), |line| event.record(line));
    }
}

struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, " {}={value}", field.name()).expect("a string takes it");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("a string takes it");
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut cause = Some(error);
        while let Some(error) = cause {
            write!(self.0, " {}={error} {error:?}", field.name()).expect("a string takes it");
            cause = error.source();
        }
    }
}

/// Puts the planted canary into keys and values, and waits until it was heard.
pub(super) async fn plant_in_redis(url: &str, heard: &Sink) {
    let client = redis::Client::open(url).expect("a URL");
    let connected = client.get_multiplexed_async_connection().await;
    let mut connection = connected.expect("Redis");
    for (number, (_, text)) in Canary::planted().spellings().iter().enumerate() {
        let name = format!("planted-{number}");
        let command: &[&str] = match number % 5 {
            0 => &["SET", text, &name],
            1 => &["SET", &name, text],
            2 => &["HSET", &name, "field", text],
            3 => &["RPUSH", &name, text],
            _ => &["SADD", &name, text],
        };
        let mut asked = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| {
            asked.arg(*argument);
        });
        let _: redis::Value = asked.query_async(&mut connection).await.expect("taken");
    }
    let _: redis::Value = redis::cmd("SET")
        .arg("the-end")
        .arg("")
        .query_async(&mut connection)
        .await
        .expect("taken");
    let all = eventually(PATIENCE, "Redis to tell all of it", async || {
        let heard = String::from_utf8_lossy(&heard.bytes()).contains("the-end");
        heard.then_some(())
    });
    all.await.expect("told in order");
}
