//! Bounds under pressure: nothing grows, nothing leaks, whatever callers and the processor do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::clock::SystemClock;
use gateway_core::connector::AlwaysOpen;
use gateway_upstream::pool::{CallFailure, PoolConfig};
use tokio::sync::watch;

use super::server::{Peer, Server};
use super::{config, pool_with, post_open, post_within, text};

#[tokio::test]
async fn many_calls_share_few_connections_and_all_are_answered() {
    let server = Server::start(Peer::serve).await;
    let settings = PoolConfig {
        connections_max: 4,
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    let exchanges = join_all((0..300).map(|_| post_open(&pool))).await;
    for exchange in &exchanges {
        text(exchange);
    }
    assert!(server.connection_count() <= 4);
    assert_eq!(server.request_count(), 300);
}

#[tokio::test]
async fn a_burst_that_connections_can_be_opened_for_is_not_refused_for_want_of_waiting_room() {
    let server = Server::start(Peer::serve).await;
    let settings = PoolConfig {
        connections_max: 8,
        waiters_max: 0,
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    let exchanges = join_all((0..9).map(|_| post_open(&pool))).await;
    let refused = exchanges
        .iter()
        .filter(|exchange| exchange.result.is_err())
        .count();
    assert_eq!(refused, 1, "the ninth would have had to wait");
}

#[tokio::test]
async fn a_waiting_call_is_small() {
    let server = Server::start(Peer::serve).await;
    let pool = pool_with(config(server.base()), Arc::new(SystemClock));
    let call = post_open(&pool);
    // Ten thousand may wait.
    let bytes = size_of_val(&call);
    assert!(bytes <= 4_096, "{bytes} bytes");
    text(&call.await);
}

/// Misbehaves in turn, until all is calm; then holds each answer until as many requests as wanted are there.
async fn misbehave(
    mut peer: Peer,
    mut calm: watch::Receiver<bool>,
    mut all_there: watch::Receiver<bool>,
) {
    let mut number = peer.index;
    while peer.request().await.is_some() {
        if *calm.borrow_and_update() {
            all_there
                .wait_for(|there| *there)
                .await
                .expect("the test holds it");
            peer.answer("200 OK", "calm").await;
            continue;
        }
        number += 1;
        match number % 7 {
            0 => return peer.reset(),
            1 => return peer.close().await,
            2 => {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await;
                return peer.close().await;
            }
            3 => {
                peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
                return peer.close().await;
            }
            4 => peer.send("nonsense\r\n\r\n").await,
            // One answer too many: the connection must not serve another call with it.
            5 => peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen").await,
            _ => peer.answer("200 OK", "ok").await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_callers_and_processor_do_every_connection_can_be_used_again_afterwards() {
    const CONNECTIONS: usize = 6;
    let (calm, _) = watch::channel(false);
    let (all_there, _) = watch::channel(false);
    let server = {
        let (calm, all_there) = (calm.subscribe(), all_there.subscribe());
        Server::start(move |peer| misbehave(peer, calm.clone(), all_there.clone())).await
    };
    let settings = PoolConfig {
        connections_max: CONNECTIONS,
        ..config(server.base())
    };
    let pool = pool_with(settings, Arc::new(SystemClock));
    let callers = (0..16_u64).map(|caller| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            for number in 0..150 {
                // Every third caller is impatient and leaves, at any moment.
                let patience = match (caller + number) % 3 {
                    0 => Duration::from_micros(50 * (number % 13)),
                    _ => Duration::from_secs(20),
                };
                let exchange = tokio::time::timeout(patience, post_open(&pool)).await;
                let Ok(exchange) = exchange else { continue };
                match &exchange.result {
                    Ok(response) => assert_eq!(&response.body[..], b"ok"),
                    Err(CallFailure::NotSent(_)) => assert_eq!(exchange.evidence.bytes_written, 0),
                    Err(CallFailure::Unknown(_)) => assert_ne!(exchange.evidence.bytes_written, 0),
                }
            }
        })
    });
    for caller in join_all(callers).await {
        caller.expect("no panic");
    }
    calm.send_replace(true);
    let before = server.request_count();
    let calls = (0..CONNECTIONS).map(|_| post_within(&pool, &AlwaysOpen, Duration::from_secs(20)));
    let (exchanges, ()) = tokio::join!(join_all(calls), async {
        server
            .until(|log| {
                log.connections
                    .iter()
                    .map(|seen| seen.requests.len())
                    .sum::<usize>()
                    == before + CONNECTIONS
            })
            .await;
        all_there.send_replace(true);
    });
    for exchange in &exchanges {
        assert_eq!(text(exchange), "calm");
    }
    assert!(pool.snapshot().len() <= CONNECTIONS + 10);
}
