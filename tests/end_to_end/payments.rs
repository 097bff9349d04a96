//! `POST /v1/payments`: charges, replays, and everything a key may meet.

use sandbox::world::{World, sale};

/// A charge is made once; its repeats get the same bytes, marked as replays.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_charge_gets_the_same_bytes() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert_eq!(first.body["status"], "captured", "{}", first.body);
    let second = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert!(second.is_replay() && !first.is_replay());
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(world.simulators.connexpay().books().net(), 150_00);
    world.audit().await;
}

/// The same on SQLite, with the lock in the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_charge_gets_the_same_bytes_on_sqlite() {
    let world = World::on_sqlite().await;
    let gateway = world.gateway().await;
    let shop = world.caller(&gateway.url);
    let first = shop.pay("k-1", &sale(150_00)).await.expect(201);
    let second = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert_eq!(first.bytes, second.bytes);
    world.audit().await;
}
