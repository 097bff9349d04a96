//! The proxy between two bare sockets.

use std::time::Duration;

use sandbox::stack::{Moment, StackError, TcpProxy, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// How long nothing may happen before we believe that nothing does.
const QUIET: Duration = Duration::from_millis(200);

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
