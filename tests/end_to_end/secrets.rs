//! Secrets, certificates and keys that change while a gateway runs, and need no restart.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use sandbox::simulators::connexpay::verb;
use sandbox::stack::{Algorithm, Databases, JwksServer, PostgresServer, TestKey, eventually};
use sandbox::world::{Caller, World, claims, migrate, sale};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

const PATIENCE: Duration = Duration::from_secs(30);

fn put(folder: &Path, name: &str, secret: &str) {
    std::fs::write(folder.join(name), secret).expect("written");
}

/// The ledger's role gets a new password, and every connection that knew the old one ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_of_the_ledger_is_read_for_the_next_connection() {
    let postgres = PostgresServer::start_new().await.expect("a Postgres");
    let databases = Databases::at(&postgres.admin_url(), migrate).await;
    let database = databases.expect("a template").create().await;
    let database = database.expect("a database");
    let mut administrator = PgConnection::connect(database.url())
        .await
        .expect("trusted");
    let mut tell = async |statement: String| {
        let told = administrator.execute(AssertSqlSafe(statement)).await;
        told.expect("done");
    };
    tell("create role cashier login superuser password 'first'".to_owned()).await;
    postgres.ask_password_of("cashier").await.expect("asked");

    let mut world = World::new().await;
    let (_, place) = database.url().split_once('@').expect("a user");
    world.config.ledger_url = format!("postgres://cashier:first@{place}");
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.pay("before", &sale(10_00)).await.expect(201);

    tell("alter role cashier password 'second'".to_owned()).await;
    let all =
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = 'cashier'";
    tell(all.to_owned()).await;
    let refused = shop.pay("meanwhile", &sale(20_00)).await.expect(503);
    assert_eq!(refused.problem(), "ledger-unavailable");

    put(world.folder(), "ledger_password", "second\n");
    shop.until_final("/v1/payments", "meanwhile", &sale(20_00))
        .await
        .expect(201);
    shop.pay("before", &sale(10_00)).await.expect(201);
    world.config.ledger_url = database.url().to_owned();
    world.audit().await;
    gateway.stopped().await;
}

/// Waits until this caller's token counts, or counts no more.
async fn until_told(caller: &Caller, status: u16) {
    let told = eventually(PATIENCE, "the new keys to be in use", async || {
        let reply = caller.get("/v1/events").await;
        (reply.status == status).then_some(())
    });
    told.await.expect("reloaded");
}

/// Everything over TLS, to the processor and at the edge, while the certificate and the issuer's keys are replaced.
#[tokio::test(flavor = "multi_thread")]
async fn over_tls_payments_go_on_while_certificate_and_keys_are_replaced() {
    let mut world = World::over_tls().await;
    let issuer = JwksServer::start([&world.key]).await.expect("an issuer");
    world.config.jwks_url = Some(issuer.url());
    world.config.more_auth = "jwks_refresh = \"1s\"\njwks_cooldown = \"1s\"\n".into();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let paid = shop.pay("first", &sale(10_00)).await.expect(201);
    let operation = format!("/v1/operations/{}", paid.operation());
    let told = shop.get(&operation).await.expect(200);
    assert!(
        told.body.to_string().contains("\"TLSv1_3\""),
        "{}",
        told.body
    );
    let plain = Caller::new(gateway.url.replace("https", "http"), "none");
    let plain = plain.try_post_with("/v1/payments", "{}", &[]).await;
    assert!(plain.is_err(), "no word in plain text");

    let kept_open = shop.clone();
    let old = world.certificate.clone().expect("one");
    let new = world.renew_certificate().to_owned();
    let shown = eventually(PATIENCE, "the new certificate to be shown", async || {
        let stranger = shop.trusting(&new);
        let answer = stranger.try_post_with("/v1/payments", "{}", &[]).await;
        answer.ok().map(drop)
    });
    shown.await.expect("shown");
    let stale = shop.trusting(&old);
    let stale = stale.try_post_with("/v1/payments", "{}", &[]).await;
    assert!(stale.is_err(), "the old certificate is gone");
    let shop = shop.trusting(&new);
    for caller in [&shop, &kept_open] {
        caller.pay("first", &sale(10_00)).await.expect(201);
    }
    shop.pay("second", &sale(20_00)).await.expect(201);

    let next = TestKey::generate(Algorithm::Es256, "next");
    issuer.serve([&world.key, &next]);
    let renewed = shop.bearing(next.mint(&claims("shop-1")));
    until_told(&renewed, 200).await;
    issuer.serve([&next]);
    until_told(&shop, 401).await;
    shop.pay("second", &sale(20_00)).await.expect(401);
    renewed.pay("second", &sale(20_00)).await.expect(201);
    renewed.pay("third", &sale(30_00)).await.expect(201);
    world.audit().await;
    gateway.stopped().await;
}

/// The file with the issuer's keys is replaced; the key that is no longer in it counts no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_taken_out_of_the_file_is_nobodys() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    until_told(&shop, 200).await;
    let next = TestKey::generate(Algorithm::Es256, "next");
    let both = format!("{}{}", world.key.public_pem(), next.public_pem());
    put(world.folder(), "jwt.pem", &both);
    let renewed = shop.bearing(next.mint(&claims("shop-1")));
    until_told(&renewed, 200).await;
    until_told(&shop, 200).await;
    put(world.folder(), "jwt.pem", &next.public_pem());
    until_told(&shop, 401).await;
    renewed.pay("k", &sale(10_00)).await.expect(201);
    gateway.stopped().await;
}

async fn ask<T: redis::FromRedisValue>(redis: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(redis).await.expect("answered")
}

/// Waits until the gateway has written what it proves each connection with.
async fn proven(redis: &mut MultiplexedConnection, probe: &str) {
    let written = eventually(PATIENCE, "a lock that is up", async || {
        let found: u64 = ask(redis, &["EXISTS", probe]).await;
        (found == 1).then_some(())
    });
    written.await.expect("a proven connection");
}

/// Redis gets a new password, and every connection that knew the old one ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_of_the_lock_is_read_for_the_next_connection() {
    let mut world = World::new().await.with_own_redis().await;
    let redis = redis::Client::open(world.config.lock_url.as_str()).expect("an address");
    let redis = redis.get_multiplexed_async_connection().await;
    let mut redis = redis.expect("a Redis");
    let () = ask(&mut redis, &["CONFIG", "SET", "requirepass", "first"]).await;
    put(world.folder(), "lock_password", "first\n");
    let file = world.folder().join("lock_password");
    world.config.more_lock = format!("password_file = \"{}\"", file.display());
    let gateway = world.gateway().await;
    let probe = format!("{}probe", world.config.lock_prefix);
    proven(&mut redis, &probe).await;

    let () = ask(&mut redis, &["CONFIG", "SET", "requirepass", "second"]).await;
    put(world.folder(), "lock_password", "second\n");
    let _: u64 = ask(&mut redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    let _: u64 = ask(&mut redis, &["DEL", &probe]).await;
    proven(&mut redis, &probe).await;
    gateway.stopped().await;
}

/// The processor's user gets a new name and password, and the token that the old ones fetched ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_login_at_the_processor_is_read_for_the_next_token() {
    let world = World::new().await;
    let connexpay = world.simulators.connexpay();
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    shop.pay("before", &sale(10_00)).await.expect(201);

    connexpay.change_rules(|rules| {
        rules.username = "renamed".into();
        rules.password = "second".into();
    });
    put(world.folder(), "username", "renamed\n");
    put(world.folder(), "password", "second\n");
    connexpay.revoke_tokens().expect("revoked");
    shop.pay("after", &sale(20_00)).await.expect(201);
    let logins = connexpay.request_count_of(verb::TOKEN);
    assert_eq!(logins, 2, "one before, one after");
    world.audit().await;
    gateway.stopped().await;
}
