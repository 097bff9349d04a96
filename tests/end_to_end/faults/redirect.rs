//! A processor that sends requests elsewhere.

use std::time::Duration;

use sandbox::simulators::connexpay::verb;
use sandbox::simulators::{Fault, Kind, Selector};
use sandbox::world::{World, sale};
use tokio::net::TcpListener;

use super::act::Act;
use super::cells::{Effect, Expected, Final};
use super::matrix::{hold, silence};
use super::stage::{Pace, Stage};

const UNDONE_LATER: Expected = Expected {
    first: &[504],
    last: &[(Final::Reversed, Effect::Undone)],
    sends_max: 1,
};

/// Where requests are sent to, and nobody may come.
struct Elsewhere(TcpListener);

impl Elsewhere {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    fn redirect(&self) -> Fault {
        let address = self.0.local_addr().expect("an address");
        let location = format!("http://{address}/connexpay/api/v1/sales");
        Fault::new(Kind::Redirect308).location(&location)
    }

    fn instead_of(&self, verb: &str) -> Fault {
        self.redirect().when(Selector::verb(verb))
    }

    async fn assert_unvisited(&self) {
        let visitor = tokio::time::timeout(Duration::ZERO, self.0.accept()).await;
        assert!(visitor.is_err(), "somebody followed: {visitor:?}");
    }
}

/// A redirect is not followed: a card is shown to nobody but the configured host, and the outcome is unknown until it
/// is looked up.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let elsewhere = Elsewhere::new().await;
    hold(
        World::new().await,
        silence("redirect_308", elsewhere.redirect()),
    )
    .await;
    elsewhere.assert_unvisited().await;
}

/// Nor elsewhere: look-ups and reversals carry the access token, and the token's own route carries the login.
#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_of_any_other_route_is_followed() {
    let elsewhere = Elsewhere::new().await;
    let stage = Stage::with_controls(World::new().await, Pace::QUICK).await;
    let mut cells = stage.cells(&[(Act::Sale, false)]).await;
    let hang = cells[0].struck_by(&Fault::new(Kind::CommitThenHang));
    let reversal = elsewhere.instead_of(verb::TIMEOUT_REVERSAL);
    stage
        .strike(vec![
            hang,
            reversal.clone(),
            elsewhere.instead_of(verb::SEARCH),
        ])
        .await;
    stage.ask(&mut cells).await;
    cells[0].until_parked(&stage).await;
    for verb in [verb::READ, verb::VOID] {
        stage
            .strike(vec![reversal.clone(), elsewhere.instead_of(verb)])
            .await;
        cells[0].stays_parked(&stage).await;
    }
    for verb in [verb::TIMEOUT_REVERSAL, verb::SEARCH, verb::READ, verb::VOID] {
        let requests = stage.connexpay().requests_of(verb);
        let redirected = requests.iter().any(|request| request.status == Some(308));
        assert!(redirected, "{verb}");
    }
    stage.lift().await;
    stage.end("redirected", &mut cells, |_| UNDONE_LATER).await;
    elsewhere.assert_unvisited().await;
}

/// A login that is sent on would be the account's own: without a token nothing is paid.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_the_login_is_not_followed() {
    let elsewhere = Elsewhere::new().await;
    let world = World::new().await;
    let gateway = world.gateway().await;
    let connexpay = world.simulators.connexpay();
    let fault = elsewhere.instead_of(verb::TOKEN);
    connexpay.set_fault(fault).await.expect("a fault");
    let shop = world.caller(&gateway.url);
    let refused = shop.pay("no-login", &sale(10_00)).await.expect(503);
    assert_eq!(refused.body["money_moved"], "no", "{}", refused.body);
    assert!(connexpay.request_count_of(verb::TOKEN) > 0);
    assert_eq!(connexpay.request_count_of(verb::SALE), 0);
    elsewhere.assert_unvisited().await;
}
