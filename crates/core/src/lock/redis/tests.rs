//! The Redis lock against a real Redis, alone and behind a door that can be shut.

use std::sync::Mutex;
use std::sync::PoisonError;

use ::redis::{Client, ConnectionAddr};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::contract;
use super::*;

const LEASE: Duration = Duration::from_mins(1);

/// Generous, because a loaded test machine stalls and these tests are not about that.
fn patient() -> RedisLockOptions {
    RedisLockOptions {
        command_timeout: Duration::from_secs(20),
        ..RedisLockOptions::default()
    }
}

fn redis_url() -> String {
    std::env::var("REDIS_URL").expect("REDIS_URL is not set: run tests/run, which starts a Redis")
}

fn fresh_name() -> String {
    format!("test/{}", Uuid::now_v7())
}

#[tokio::test]
async fn the_redis_lock_keeps_the_contract() {
    let open =
        || Arc::new(RedisLock::new(&redis_url(), patient()).expect("REDIS_URL is an address"));
    let (one, other) = (open(), open());
    contract::run(&contract::Pair {
        one: one.clone(),
        other: other.clone(),
    })
    .await;
    for lock in [one, other] {
        // Guards that were dropped give back in tasks of their own, which keep their slot until then.
        until(|| lock.shared.names.len() == 0).await;
    }
}

#[tokio::test]
#[ignore = "needs REDIS_CLUSTER_URL, as in redis+cluster://127.0.0.1:7000"]
async fn the_redis_lock_keeps_the_contract_on_a_cluster() {
    let address = std::env::var("REDIS_CLUSTER_URL").expect("REDIS_CLUSTER_URL");
    let open =
        || Arc::new(RedisLock::new(&address, patient()).expect("REDIS_CLUSTER_URL is an address"));
    contract::run(&contract::Pair {
        one: open(),
        other: open(),
    })
    .await;
}

#[tokio::test]
async fn without_redis_it_starts_and_answers_at_once_that_it_is_down() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("redis://{}", nobody.local_addr().expect("bound"));
    drop(nobody);
    let lock = RedisLock::new(&address, RedisLockOptions::default()).expect("an address");
    assert!(!lock.is_up());
    let acquired = lock.acquire(&fresh_name(), LEASE, LEASE).await;
    assert!(matches!(acquired, Acquired::Unavailable(_)), "{acquired:?}");
}

#[tokio::test]
async fn a_silent_redis_costs_one_command_and_then_nothing_until_it_is_back() {
    let door = Door::open().await;
    let options = RedisLockOptions {
        command_timeout: Duration::from_secs(2),
        probe_every: Duration::from_hours(1), // The failure is found by the command, not by the probe.
        ..RedisLockOptions::default()
    };
    let lock = RedisLock::new(&door.address, options).expect("an address");
    until(|| lock.is_up()).await;
    let Acquired::Held(guard) = lock.acquire(&fresh_name(), LEASE, Duration::ZERO).await else {
        panic!("a free name is granted")
    };

    door.hush();
    let asked = Instant::now();
    let acquired = lock.acquire(&fresh_name(), LEASE, LEASE).await;
    assert!(
        matches!(acquired, Acquired::Unavailable(LockError::Silent { .. })),
        "{acquired:?}"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "the wait asked for does not apply to a silent Redis"
    );
    assert!(!lock.is_up());
    let taken = door.accepted();
    for _ in 0..1000 {
        let acquired = lock.acquire(&fresh_name(), LEASE, LEASE).await;
        assert!(
            matches!(acquired, Acquired::Unavailable(LockError::Down)),
            "{acquired:?}"
        );
    }
    assert!(door.accepted() <= taken + 2, "only the background connects");
    guard.release().await; // Returns, though nobody listens.

    door.speak();
    until(|| lock.is_up()).await;
    let acquired = lock.acquire(&fresh_name(), LEASE, Duration::ZERO).await;
    assert!(matches!(acquired, Acquired::Held(_)), "{acquired:?}");
}

#[tokio::test]
async fn a_connection_lost_while_idle_is_found_and_made_again() {
    let door = Door::open().await;
    let options = RedisLockOptions {
        probe_every: Duration::from_millis(20),
        ..patient()
    };
    let lock = RedisLock::new(&door.address, options).expect("an address");
    until(|| lock.is_up()).await;
    let taken = door.accepted();
    door.cut();
    until(|| door.accepted() > taken && lock.is_up()).await;
    let acquired = lock.acquire(&fresh_name(), LEASE, Duration::ZERO).await;
    assert!(matches!(acquired, Acquired::Held(_)), "{acquired:?}");
}

#[tokio::test]
async fn a_flushed_redis_grants_again_and_the_old_guard_harms_nobody() {
    // A flush of the shared server would disturb its other users: deleting the key is the same to this lock.
    let lock = RedisLock::new(&redis_url(), patient()).expect("an address");
    let name = fresh_name();
    let Acquired::Held(old) = lock.acquire(&name, LEASE, Duration::ZERO).await else {
        panic!("free")
    };
    let client = Client::open(redis_url()).expect("an address");
    let mut wire = client
        .get_multiplexed_async_connection()
        .await
        .expect("a Redis");
    let key = format!("{}{name}", RedisLockOptions::default().prefix);
    let deleted: u64 = ::redis::cmd("DEL")
        .arg(&key)
        .query_async(&mut wire)
        .await
        .expect("a Redis");
    assert_eq!(deleted, 1);
    let Acquired::Held(new) = lock.acquire(&name, LEASE, Duration::ZERO).await else {
        panic!("free again")
    };
    old.release().await;
    assert!(matches!(
        lock.acquire(&name, LEASE, Duration::ZERO).await,
        Acquired::Busy
    ));
    new.release().await;
}

#[test]
fn addresses_are_read_and_no_error_repeats_the_password() {
    let options = RedisLockOptions::default();
    for good in [
        "redis://127.0.0.1",
        "rediss://user:secret@redis.example:6380/3",
        "redis+unix:///run/redis.sock",
        "redis+cluster://user:secret@a.example:7000,b.example:7001",
        "rediss+cluster://a.example:7000,b.example:7001/",
    ] {
        assert!(Target::parse(good, &options).is_ok(), "{good}");
    }
    let cluster = Target::parse("redis+cluster://a.example:7000", &options);
    assert!(matches!(cluster, Ok(Target::Cluster(_))));
    for bad in [
        "",
        "127.0.0.1",
        "http://user:secret@host",
        "redis+cluster://user:secret@:x",
        "redis://user:secret@h:x",
    ] {
        let Err(error) = Target::parse(bad, &options) else {
            panic!("{bad} was taken")
        };
        assert!(matches!(error, LockError::Address { .. }));
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }
}

/// Waits until it is so; what it waits for happens in another task, by itself.
async fn until(so: impl Fn() -> bool) {
    let patience = timeout(Duration::from_mins(1), async {
        while !so() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    patience.await.expect("it never became so");
}

/// A door before Redis: open, hushed (it accepts, and nothing passes), or cut.
struct Door {
    address: String,
    hushed: Arc<watch::Sender<bool>>,
    passages: Arc<Mutex<Vec<JoinHandle<()>>>>,
    keeper: JoinHandle<()>,
}

impl Door {
    async fn open() -> Self {
        let client = Client::open(redis_url()).expect("REDIS_URL is an address");
        let behind = match client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
            other => panic!("this test needs a REDIS_URL by TCP, not {other:?}"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("redis://{}", listener.local_addr().expect("bound"));
        let hushed = Arc::new(watch::Sender::new(false));
        let passages = Arc::new(Mutex::new(Vec::new()));
        let keeper = tokio::spawn({
            let (hushed, passages) = (Arc::clone(&hushed), Arc::clone(&passages));
            async move {
                while let Ok((inside, _)) = listener.accept().await {
                    let passage = tokio::spawn(pass(inside, behind.clone(), hushed.subscribe()));
                    passages
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(passage);
                }
            }
        });
        Self {
            address,
            hushed,
            passages,
            keeper,
        }
    }

    fn hush(&self) {
        self.hushed.send_replace(true);
    }

    fn speak(&self) {
        self.hushed.send_replace(false);
    }

    fn accepted(&self) -> usize {
        self.passages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn cut(&self) {
        for passage in &*self.passages.lock().unwrap_or_else(PoisonError::into_inner) {
            passage.abort();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.keeper.abort();
        self.cut();
    }
}

/// Carries bytes both ways while the door is not hushed.
async fn pass(mut inside: TcpStream, behind: String, mut hushed: watch::Receiver<bool>) {
    let mut outside = TcpStream::connect(behind)
        .await
        .expect("the Redis behind the door");
    loop {
        if hushed.wait_for(|hushed| !hushed).await.is_err() {
            return;
        }
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => return,
            now = hushed.wait_for(|hushed| *hushed) => if now.is_err() { return },
        }
    }
}
