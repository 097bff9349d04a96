//! One call: what it proves about what left, for every way an exchange can end.

use std::io::{Read as _, Write as _};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use gateway_core::connector::{AlwaysOpen, Ended, NotSent, SendGate, UnknownReason};
use gateway_upstream::pool::{Call, CallFailure, PoolConfig};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{Notify, watch};

use super::server::{Peer, Server};
use super::{CountingResolver, config, pool, post, post_open, post_within, text};

/// A gate that does something first; the body is the test's.
struct Gate<F>(F);

impl<F: Fn() -> Result<(), NotSent> + Send + Sync> SendGate for Gate<F> {
    fn may_send(&self) -> Result<(), NotSent> {
        self.0()
    }
}

#[tokio::test]
async fn an_answer_comes_back_whole_and_the_connection_is_used_again() {
    let server = Server::start(Peer::serve).await;
    let pool = pool(config(server.base()));
    let first = post_open(&pool).await;
    let second = post_open(&pool).await;
    assert_eq!((text(&first), text(&second)), ("0/1", "0/2"));
    assert!(!first.evidence.reused && second.evidence.reused);
    assert_eq!(second.evidence.address, Some(server.address));
    assert_eq!(second.evidence.status, Some(200));
    assert_eq!(second.evidence.ended, Ended::Complete);
    assert!(second.evidence.first_byte_after.expect("an answer") <= second.evidence.took);
    let sent: usize = server.read(|log| log.connections[0].bytes);
    assert_eq!(
        first.evidence.bytes_written + second.evidence.bytes_written,
        sent as u64,
        "counted exactly"
    );
    let request = server.read(|log| log.connections[0].requests[0].1.clone());
    assert!(
        request.starts_with("POST /sales?kind=test HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: {}\r\n", server.address)),
        "{request}"
    );
    assert!(
        request.ends_with("\r\n\r\n{\"Amount\":1500.00}"),
        "{request}"
    );
}

#[tokio::test]
async fn the_base_path_comes_first_and_keep_alive_is_said_where_it_is_asked_for() {
    let server = Server::start(Peer::serve).await;
    let base = format!("{}api/v1/", server.base()).parse().expect("a URI");
    let pool = pool(PoolConfig {
        keep_alive_headers: true,
        ..config(base)
    });
    post_open(&pool).await.result.expect("an answer");
    let request = server.read(|log| log.connections[0].requests[0].1.clone());
    assert!(
        request.starts_with("POST /api/v1/sales?kind=test HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("connection: keep-alive\r\nkeep-alive: timeout=300\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_gate_that_refuses_lets_no_byte_out_and_leaves_the_connection_fit() {
    let server = Server::start(Peer::serve).await;
    let pool = pool(config(server.base()));
    let refused = post(&pool, &Gate(|| Err(NotSent::TooLate))).await;
    assert_eq!(
        refused.result.expect_err("refused"),
        CallFailure::NotSent(NotSent::TooLate)
    );
    assert_eq!(
        (refused.evidence.ended, refused.evidence.bytes_written),
        (Ended::Gated, 0)
    );
    // The same connection serves the next call: then all that it ever carried is known.
    let next = post_open(&pool).await;
    assert_eq!(text(&next), "0/1");
    let (connections, bytes) = server.read(|log| (log.connections.len(), log.connections[0].bytes));
    assert_eq!(
        (connections, bytes as u64),
        (1, next.evidence.bytes_written)
    );
}

/// Closes each connection once it has answered and the test says so.
async fn server_that_closes(close: Arc<Notify>) -> Server {
    Server::start(move |mut peer: Peer| {
        let close = Arc::clone(&close);
        async move {
            peer.request().await;
            peer.answer("200 OK", &peer.index.to_string()).await;
            close.notified().await;
            peer.close().await;
        }
    })
    .await
}

#[tokio::test]
async fn connections_closed_while_idle_cost_no_call() {
    let close = Arc::new(Notify::new());
    let server = server_that_closes(Arc::clone(&close)).await;
    let pool = pool(config(server.base()));
    for index in 0..20 {
        let exchange = post_open(&pool).await;
        assert_eq!(text(&exchange), index.to_string());
        close.notify_one();
        server
            .until(|log| log.connections[index].ended.is_some())
            .await;
    }
}

/// The server runs on a thread of its own and the test blocks its runtime meanwhile: so the runtime cannot know of the
/// close when the next call begins, as under load.
#[tokio::test]
async fn a_close_that_the_runtime_has_not_heard_of_yet_costs_no_call() {
    const ROUNDS: usize = 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let (close, wait_for_close) = mpsc::channel::<()>();
    let (closed, wait_for_closed) = mpsc::channel::<()>();
    let serving = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"{\"Amount\":1500.00}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .expect("a client");
            wait_for_close.recv().expect("the test says when");
            drop(stream);
            closed.send(()).expect("the test waits for it");
        }
    });
    let pool = pool(config(base.parse().expect("a URI")));
    for _ in 0..ROUNDS {
        assert_eq!(text(&post_open(&pool).await), "ok");
        close.send(()).expect("the server waits for it");
        wait_for_closed.recv().expect("the server closes");
    }
    serving.join().expect("no panic");
}

#[tokio::test]
async fn a_connection_closed_while_idle_leaves_the_books_without_a_call() {
    let close = Arc::new(Notify::new());
    let server = server_that_closes(Arc::clone(&close)).await;
    let pool = pool(config(server.base()));
    post_open(&pool).await.result.expect("an answer");
    let [used] = &pool.snapshot()[..] else {
        panic!("one connection")
    };
    close.notify_one();
    let still_there = || {
        pool.snapshot()
            .iter()
            .any(|connection| connection.id == used.id)
    };
    while still_there() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_reset_between_the_check_and_the_write_is_replaced_without_a_failed_call() {
    let (cut, wait_for_cut) = mpsc::channel::<()>();
    let (done, wait_for_done) = mpsc::channel::<()>();
    let wait_for_cut = Arc::new(Mutex::new(wait_for_cut));
    let server = Server::start(move |mut peer: Peer| {
        let (wait_for_cut, done) = (Arc::clone(&wait_for_cut), done.clone());
        async move {
            peer.request().await;
            peer.answer("200 OK", &peer.index.to_string()).await;
            if peer.index == 0 {
                let cut = tokio::task::spawn_blocking(move || {
                    wait_for_cut.lock().expect("no panic").recv()
                });
                cut.await.expect("no panic").expect("the gate asks for it");
                peer.reset();
                done.send(()).expect("the gate waits for it");
            } else {
                peer.serve().await;
            }
        }
    })
    .await;
    let pool = pool(config(server.base()));
    assert_eq!(text(&post_open(&pool).await), "0");
    let asked = Mutex::new(0);
    let wait_for_done = Mutex::new(wait_for_done);
    let second = {
        let gate = Gate(|| {
            let mut asked = asked.lock().expect("no panic");
            *asked += 1;
            if *asked == 1 {
                cut.send(()).expect("the server waits for it");
                wait_for_done
                    .lock()
                    .expect("no panic")
                    .recv()
                    .expect("the server resets");
            }
            Ok(())
        });
        post(&pool, &gate).await
    };
    assert_eq!(text(&second), "1");
    assert_eq!(
        *asked.lock().expect("no panic"),
        2,
        "each attempt asks the gate"
    );
    assert_eq!(server.request_count(), 2, "the request arrived once");
}

async fn ends_unknown(
    script: fn(Peer) -> futures_util::future::BoxFuture<'static, ()>,
) -> (Server, Ended, UnknownReason) {
    let server = Server::start(script).await;
    let pool = pool(PoolConfig {
        answer_bytes_max: 2_000,
        ..config(server.base())
    });
    let exchange = post_within(&pool, &AlwaysOpen, Duration::from_secs(20)).await;
    assert!(exchange.evidence.bytes_written > 0);
    let CallFailure::Unknown(reason) = exchange.result.expect_err("no usable answer") else {
        panic!("not unknown")
    };
    assert_eq!(server.connection_count(), 1, "never sent again");
    assert!(pool.snapshot().is_empty(), "never used again");
    (server, exchange.evidence.ended, reason)
}

#[tokio::test]
async fn a_reset_after_the_request_was_read_is_unknown_and_never_repeated() {
    let (server, ended, reason) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.reset();
        })
    })
    .await;
    assert_eq!(ended, Ended::Closed);
    assert!(matches!(reason, UnknownReason::Closed { .. }), "{reason:?}");
    assert_eq!(server.request_count(), 1);
}

#[tokio::test]
async fn a_close_before_any_answer_is_unknown() {
    let (_, ended, _) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.close().await;
        })
    })
    .await;
    assert_eq!(ended, Ended::Closed);
}

#[tokio::test]
async fn a_truncated_answer_is_unknown() {
    let (_, ended, reason) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send(
                "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"status\":\"Transaction - Appr",
            )
            .await;
            peer.close().await;
        })
    })
    .await;
    assert_eq!(ended, Ended::Closed);
    assert!(matches!(reason, UnknownReason::Closed { .. }), "{reason:?}");
}

#[tokio::test]
async fn a_truncated_chunked_answer_is_unknown() {
    let (_, ended, _) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"sta\r\n")
                .await;
            peer.close().await;
        })
    })
    .await;
    assert_eq!(ended, Ended::Closed);
}

#[tokio::test]
async fn an_answer_announced_too_large_is_unknown() {
    let (_, ended, reason) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.answer("200 OK", &"x".repeat(2_001)).await;
        })
    })
    .await;
    assert_eq!(ended, Ended::TooLarge);
    assert!(
        matches!(reason, UnknownReason::Unusable { .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn an_answer_that_grows_too_large_is_unknown() {
    let (_, ended, _) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            for _ in 0..21 {
                peer.send(&format!("64\r\n{}\r\n", "x".repeat(100))).await;
            }
            while peer.request().await.is_some() {}
        })
    })
    .await;
    assert_eq!(ended, Ended::TooLarge);
}

#[tokio::test]
async fn a_head_too_large_is_unknown() {
    let (_, ended, _) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n",
                "x".repeat(20_000)
            ))
            .await;
        })
    })
    .await;
    assert_eq!(ended, Ended::TooLarge);
}

#[tokio::test]
async fn too_many_headers_are_unknown() {
    let (_, ended, _) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n",
                "x-many: 1\r\n".repeat(101)
            ))
            .await;
        })
    })
    .await;
    assert_eq!(ended, Ended::TooLarge);
}

#[tokio::test]
async fn what_is_not_http_is_unknown() {
    let (_, ended, reason) = ends_unknown(|mut peer| {
        Box::pin(async move {
            peer.request().await;
            peer.send("220 mail.example.com ESMTP\r\n\r\n").await;
        })
    })
    .await;
    assert_eq!(ended, Ended::Malformed);
    assert!(
        matches!(reason, UnknownReason::Unusable { .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn an_answer_larger_than_every_buffer_comes_back_whole() {
    let body = "0123456789".repeat(20_000);
    let server = {
        let body = body.clone();
        Server::start(move |mut peer: Peer| {
            let body = body.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.answer("200 OK", &body).await;
                }
            }
        })
        .await
    };
    let pool = pool(config(server.base()));
    for _ in 0..2 {
        assert_eq!(text(&post_open(&pool).await), body);
    }
    assert_eq!(server.connection_count(), 1);
}

#[tokio::test]
async fn a_slow_drip_within_the_timeout_is_an_answer() {
    let server = Server::start(|mut peer: Peer| async move {
        peer.request().await;
        for byte in "HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n".chars() {
            peer.send(&byte.to_string()).await;
        }
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            peer.send("y").await;
        }
        peer.serve().await;
    })
    .await;
    let pool = pool(config(server.base()));
    let exchange = post_open(&pool).await;
    assert_eq!(text(&exchange), "y".repeat(40));
    assert!(exchange.evidence.took >= Duration::from_millis(80));
    assert_eq!(
        text(&post_open(&pool).await),
        "0/1",
        "the connection stays fit"
    );
}

#[tokio::test]
async fn silence_is_unknown_after_the_timeout_and_the_connection_is_closed() {
    let server =
        Server::start(|mut peer: Peer| async move { while peer.request().await.is_some() {} })
            .await;
    let pool = pool(config(server.base()));
    let timeout = Duration::from_millis(100);
    let exchange = post_within(&pool, &AlwaysOpen, timeout).await;
    assert_eq!(
        exchange.result.expect_err("silence"),
        CallFailure::Unknown(UnknownReason::TimedOut)
    );
    assert_eq!(exchange.evidence.ended, Ended::TimedOut);
    assert_eq!(exchange.evidence.first_byte_after, None);
    assert!(exchange.evidence.took >= timeout && exchange.evidence.took < Duration::from_secs(5));
    server.until(|log| log.connections[0].ended.is_some()).await;
    assert!(pool.snapshot().is_empty());
}

#[tokio::test]
async fn bytes_are_counted_exactly_when_time_runs_out_half_way_through_the_request() {
    let (read_on, _) = watch::channel(false);
    let total = Arc::new(AtomicUsize::new(0));
    let (finished, mut is_finished) = watch::channel(false);
    let server = {
        let (read_on, total, finished) =
            (read_on.subscribe(), Arc::clone(&total), finished.clone());
        Server::start(move |mut peer: Peer| {
            let (mut read_on, total, finished) =
                (read_on.clone(), Arc::clone(&total), finished.clone());
            async move {
                read_on.wait_for(|go| *go).await.expect("the test holds it");
                total.store(peer.drain().await, Ordering::Relaxed);
                finished.send_replace(true);
            }
        })
        .await
    };
    let pool = pool(config(server.base()));
    // More than the socket's buffers take while nobody reads.
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let headers = HeaderMap::new();
    let call = Call {
        method: Method::POST,
        path: "/",
        headers: &headers,
        body: body.clone(),
        timeout: Duration::from_millis(200),
        gate: &AlwaysOpen,
        label: "POST /",
    };
    let exchange = pool.call(call).await;
    assert_eq!(
        exchange.result.expect_err("nobody answers"),
        CallFailure::Unknown(UnknownReason::TimedOut)
    );
    let written = exchange.evidence.bytes_written;
    assert!(0 < written && written < body.len() as u64, "{written}");
    read_on.send_replace(true);
    is_finished
        .wait_for(|finished| *finished)
        .await
        .expect("the server lives");
    assert_eq!(total.load(Ordering::Relaxed) as u64, written);
}

#[tokio::test]
async fn connections_that_close_as_soon_as_they_open_are_not_tried_for_ever() {
    let server = Server::start(|peer: Peer| async move { peer.reset() }).await;
    let pool = pool(config(server.base()));
    let exchange = post_open(&pool).await;
    let failure = exchange.result.expect_err("nobody behind them");
    // Whoever is faster: the reset, or the request.
    let unreachable = matches!(failure, CallFailure::NotSent(NotSent::Unreachable { .. }));
    let closed = matches!(failure, CallFailure::Unknown(UnknownReason::Closed { .. }));
    assert!(unreachable || closed, "{failure:?}");
    assert_eq!(exchange.evidence.bytes_written > 0, closed, "{failure:?}");
    assert!(
        server.connection_count() <= 10,
        "{} connections for one call",
        server.connection_count()
    );
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection_which_is_never_used_again() {
    let server = Server::start(|mut peer: Peer| async move {
        if peer.index == 0 {
            while peer.request().await.is_some() {}
        } else {
            peer.serve().await;
        }
    })
    .await;
    let pool = pool(config(server.base()));
    {
        let call = post_open(&pool);
        tokio::pin!(call);
        tokio::select! {
            _ = &mut call => panic!("no answer was given"),
            () = server.until(|log| log.connections.first().is_some_and(|seen| seen.requests.len() == 1)) => {}
        }
    }
    server.until(|log| log.connections[0].ended.is_some()).await;
    assert!(pool.snapshot().is_empty());
    assert_eq!(text(&post_open(&pool).await), "1/1");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let other = Server::start(Peer::serve).await;
    let location = other.base();
    let server = Server::start(move |mut peer: Peer| {
        let location = location.clone();
        async move {
            peer.request().await;
            let head = format!("HTTP/1.1 308 Permanent Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            peer.send(&head).await;
            peer.serve().await;
        }
    })
    .await;
    let pool = pool(config(server.base()));
    let exchange = post_open(&pool).await;
    assert_eq!(
        exchange.result.expect("an answer").status,
        StatusCode::PERMANENT_REDIRECT
    );
    // The next call is answered, so a redirect would have been followed by now.
    post_open(&pool).await.result.expect("an answer");
    assert_eq!(other.connection_count(), 0);
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let server = Server::start(Peer::serve).await;
    let base = server.base();
    let address = server.address;
    drop(server);
    // Nothing else of this test binds a port, so it stays free.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let pool = pool(config(base));
    let exchange = post_open(&pool).await;
    let failure = exchange.result.expect_err("nobody listens");
    assert!(
        matches!(failure, CallFailure::NotSent(NotSent::Unreachable { .. })),
        "{failure:?}"
    );
    assert_eq!(
        (exchange.evidence.ended, exchange.evidence.bytes_written),
        (Ended::NoConnection, 0)
    );
}

#[tokio::test]
async fn an_answer_that_ends_the_connection_is_followed_by_a_new_one_and_a_new_look_up() {
    let server = Server::start(|mut peer: Peer| async move {
        peer.request().await;
        let body = peer.index.to_string();
        peer.send(&format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n{body}"
        ))
        .await;
        peer.close().await;
    })
    .await;
    let resolver = CountingResolver::new(server.address);
    let base = "http://processor.test:81".parse().expect("a URI");
    let pool = pool(PoolConfig {
        resolver: resolver.clone(),
        ..config(base)
    });
    for number in 0..3 {
        assert_eq!(text(&post_open(&pool).await), number.to_string());
    }
    assert_eq!(resolver.asked(), 3, "asked for each connection");
    let request = server.read(|log| log.connections[0].requests[0].1.clone());
    assert!(request.contains("host: processor.test:81\r\n"), "{request}");
}

#[tokio::test]
async fn at_the_bounds_calls_wait_and_then_are_not_sent() {
    let release = Arc::new(Notify::new());
    let server = {
        let release = Arc::clone(&release);
        Server::start(move |mut peer: Peer| {
            let release = Arc::clone(&release);
            async move {
                peer.request().await;
                release.notified().await;
                peer.answer("200 OK", "late").await;
                peer.serve().await;
            }
        })
        .await
    };
    let pool = pool(PoolConfig {
        connections_max: 1,
        waiters_max: 1,
        wait_max: Duration::from_millis(200),
        ..config(server.base())
    });
    let first = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { post_open(&pool).await }
    });
    server
        .until(|log| {
            log.connections
                .first()
                .is_some_and(|seen| seen.requests.len() == 1)
        })
        .await;
    // One waits until its time is up, the other finds the queue full at once.
    let mut one = pin!(post_open(&pool));
    assert!(poll!(&mut one).is_pending());
    let Poll::Ready(other) = poll!(pin!(post_open(&pool))) else {
        panic!("a second one waits")
    };
    let one = one.await;
    for refused in [&one, &other] {
        let failure = refused.result.as_ref().expect_err("no connection");
        assert_eq!(*failure, CallFailure::NotSent(NotSent::PoolExhausted));
    }
    assert!(one.evidence.took >= Duration::from_millis(200));
    release.notify_one();
    assert_eq!(text(&first.await.expect("no panic")), "late");
    assert_eq!(server.connection_count(), 1);
}

#[tokio::test]
async fn a_waiting_call_gets_the_connection_that_comes_back() {
    let release = Arc::new(Notify::new());
    let server = {
        let release = Arc::clone(&release);
        Server::start(move |mut peer: Peer| {
            let release = Arc::clone(&release);
            async move {
                peer.request().await;
                release.notified().await;
                peer.answer("200 OK", "first").await;
                peer.serve().await;
            }
        })
        .await
    };
    let pool = pool(PoolConfig {
        connections_max: 1,
        ..config(server.base())
    });
    let (first, second, ()) = tokio::join!(post_open(&pool), post_open(&pool), async {
        server
            .until(|log| {
                log.connections
                    .first()
                    .is_some_and(|seen| seen.requests.len() == 1)
            })
            .await;
        release.notify_one();
    });
    assert_eq!((text(&first), text(&second)), ("first", "0/1"));
}
