//! A processor that sends requests elsewhere.

use sandbox::simulators::{Fault, Kind};
use sandbox::world::World;
use tokio::net::TcpListener;

use super::matrix::{hold, silence};

/// A redirect is not followed: a card is shown to nobody but the configured host, and the outcome is unknown until it
/// is looked up.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = elsewhere.local_addr().expect("an address");
    let location = format!("http://{address}/connexpay/api/v1/sales");
    let fault = Fault::new(Kind::Redirect308).location(&location);
    hold(World::new().await, silence("redirect_308", fault)).await;
    let visitor = tokio::time::timeout(std::time::Duration::ZERO, elsewhere.accept()).await;
    assert!(visitor.is_err(), "somebody followed: {visitor:?}");
}
