//! A process that lost touch with the ledger between the record and the first byte sends nothing and gives the key back.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::clock::ManualClock;
use gateway_core::connector::NotSent;
use gateway_core::operation::State;
use gateway_http::assemble::Seams;
use sandbox::simulators::connexpay::verb;
use sandbox::stack::eventually;
use sandbox::world::{Around, Turnstile, World, sale};
use serde_json::json;

use crate::both_ledgers::on_both_ledgers;

on_both_ledgers!(a_pause_before_the_first_byte_sends_nothing_and_keeps_the_key);

/// Four seconds pass between the record and the check before the first byte, one more than may lie between two confirmed
/// beats. Whether a beat follows the pause before that check or after it, the request must not leave.
async fn a_pause_before_the_first_byte_sends_nothing_and_keeps_the_key(mut world: World) {
    world.config.set_spans("5s", "30s", "40s");
    let clock = Arc::new(ManualClock::running());
    let turnstile = Turnstile::closed();
    let gateway = world
        .gateway_with(Seams {
            clock: Arc::clone(&clock) as _,
            ..Around::before(turnstile.hook()).seams()
        })
        .await;
    let shop = world.caller(&gateway.url);
    let paying = {
        let shop = shop.clone();
        let body = sale(150_00);
        tokio::spawn(async move { shop.post_waiting("/v1/payments", "k-1", &body, "30").await })
    };
    turnstile.reached(1).await;
    clock.advance(Duration::from_secs(4));
    turnstile.open();
    let refused = paying.await.expect("answered").expect(503);
    assert_eq!(refused.problem(), "ledger-unavailable", "{}", refused.body);
    assert_eq!(
        (&refused.body["retry"], &refused.body["money_moved"]),
        (&json!("same-key"), &json!("no"))
    );
    let connexpay = world.simulators.connexpay();
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);
    let operation = world.records().await.operation("k-1").await;
    let not_sent = NotSent::HeartbeatLost;
    assert_eq!(operation.state, State::NotSent { not_sent });

    let beating = eventually(Duration::from_secs(10), "a beat", async || {
        gateway.engine.is_beating().then_some(())
    });
    beating.await.expect("beats go on after the pause");
    let paid = shop.pay("k-1", &sale(150_00)).await.expect(201);
    assert!(!paid.is_replay(), "nothing was final before");
    assert_eq!(connexpay.request_count_of(verb::SALE), 1);
    world.audit().await;
}
