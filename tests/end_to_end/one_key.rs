//! One idempotency key, many callers, several replicas.

use std::time::Duration;

use sandbox::simulators::connexpay::{EntryKind, verb};
use sandbox::simulators::{Moment, Selector};
use sandbox::stack::eventually;
use sandbox::world::{Caller, World, sale};
use tokio::task::JoinSet;

/// On each of two replicas.
const CALLERS: u32 = 100;

/// Sends one key `CALLERS` times to each gateway while the processor holds its answer, and expects one answer for all.
async fn one_sale_for_all(world: &World, gateways: [&str; 2]) {
    let connexpay = world.simulators.connexpay();
    let gate = connexpay.hold(Moment::BeforeCommit, Selector::verb(verb::SALE));
    let callers: Vec<Caller> = gateways.iter().map(|url| world.caller(*url)).collect();
    let mut calls = JoinSet::new();
    for caller in &callers {
        for _ in 0..CALLERS {
            let caller = caller.clone();
            calls.spawn(async move { caller.pay("one-key", &sale(150_00)).await });
        }
    }
    for caller in &callers {
        let within = Duration::from_secs(45);
        let waiting = eventually(within, "every caller to wait", async || {
            let waiting = caller.metric("payment_waiting_callers").await;
            (waiting >= f64::from(CALLERS)).then_some(())
        });
        waiting.await.expect("all of them wait");
    }
    // A caller counts as waiting before the sale of the first has reached the processor.
    gate.reached(1).await.expect("the sale arrives");
    assert_eq!(gate.arrived(), 1, "requests of one key");
    gate.release();

    let replies = calls.join_all().await;
    let first = &replies[0].bytes;
    for reply in &replies {
        assert_eq!(reply.status, 201, "{}", reply.body);
        assert_eq!(&reply.bytes, first);
    }
    let made_it = replies.iter().filter(|reply| !reply.is_replay()).count();
    assert_eq!(made_it, 1, "only one of them is no replay");
    let books = connexpay.books();
    assert_eq!(books.of(EntryKind::Sale).len(), 1);
    assert_eq!(books.net(), 150_00);
    world.audit().await;
}

/// The processor answers when the test says so, which must not be past anybody's wait.
fn patient(world: &mut World) {
    world.config.set_spans("50s", "55s", "120s");
}

/// However many callers send one key at once, and to whichever process, one sale is made and all get the same answer.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_key_on_two_processes_get_one_sale_and_the_same_bytes() {
    let mut world = World::new().await;
    patient(&mut world);
    let first = world.process("first").await;
    let second = world.process("second").await;
    one_sale_for_all(&world, [first.base_url(), second.base_url()]).await;
}

/// The same within one process: the replicas' only common ground is the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_key_on_two_gateways_get_one_sale_and_the_same_bytes() {
    let mut world = World::new().await;
    patient(&mut world);
    let (first, second) = (world.gateway().await, world.gateway().await);
    one_sale_for_all(&world, [&first.url, &second.url]).await;
}
