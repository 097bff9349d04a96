//! Simulators of the processors: HTTP servers with memory, rules and faults, over real sockets.
//!
//! One server stands for all simulated processors, each below its own path (`/connexpay/api/v1/…`), with a control
//! API below `/_sandbox/`. Because a fault may close the listening socket, the control API also answers on an
//! address of its own. What every processor shares lies in this folder: the door (sockets), faults, gates, journal.
//! What is particular to one lies in its sub-folder and implements [`site::Processor`].

pub mod command;
pub mod connexpay;
mod control;
mod door;
mod echo;
mod fault;
mod gate;
mod journal;
mod json;
pub(crate) mod site;
#[cfg(test)]
mod tests;
pub mod tls;
mod wire;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use connexpay::ConnexPay;
pub use door::ConnectionRecord;
use door::{Answer, Door, Host};
pub use echo::Form;
pub use fault::{Fault, FaultOrder, InForce, Kind, Selector};
pub use gate::{Gate, Moment};
pub use journal::RequestRecord;
use site::{Processor, Site};
use wire::Link;

/// How long a test waits for something that should have happened, before it is told that it did not.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// What was waited for did not come within [`WAIT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("still waiting for {0}")]
pub struct StillWaiting(pub &'static str);

/// How the simulators are run.
#[derive(Debug, Default)]
pub struct Options {
    /// TLS on the processors' address; plain text when absent. The control address is always plain.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Where the control API has an address of its own; a free loopback port when absent.
    pub control: Option<TcpListener>,
    /// Connections that idle longer are closed, as real processors do; never when absent.
    pub idle_limit: Option<Duration>,
    pub connexpay: connexpay::Rules,
}

/// At the bound the oldest request is forgotten.
const JOURNAL_COUNT_MAX: usize = 20_000;
/// At the bound the oldest connection that has ended is forgotten.
const CONNECTION_COUNT_MAX: usize = 20_000;

/// The running simulators. Dropping them closes every socket.
#[derive(Debug)]
pub struct Simulators {
    house: Arc<House>,
    door: Arc<Door>,
    control: Door,
    scheme: &'static str,
    connexpay: Upstream<ConnexPay>,
}

impl Simulators {
    /// Serves on `listener`. With `dir` the books are kept there and read again at the next start.
    ///
    /// # Errors
    /// When the books cannot be read or a socket cannot be used.
    pub async fn start(
        listener: TcpListener,
        dir: Option<PathBuf>,
        options: Options,
    ) -> io::Result<Self> {
        let control = match options.control {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let connexpay = Arc::new(ConnexPay::open(
            dir.as_deref().map(Path::new),
            options.connexpay,
        )?);
        let processor: Arc<dyn Processor> = Arc::clone(&connexpay) as _;
        let site = Arc::new(Site::new(
            processor,
            connexpay::magic_faults(),
            JOURNAL_COUNT_MAX,
        ));
        let house = Arc::new(House {
            sites: vec![(connexpay::NAME, Arc::clone(&site))],
            door: Mutex::default(),
            idle_limit: options.idle_limit,
        });
        let scheme = if options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let tls = options.tls.map(TlsAcceptor::from);
        let door = Arc::new(Door::open(
            listener,
            tls,
            CONNECTION_COUNT_MAX,
            Arc::clone(&house),
        )?);
        door.limit_idle(options.idle_limit);
        *locked(&house.door) = Some(Arc::downgrade(&door));
        let control = Door::open(
            control,
            None,
            CONNECTION_COUNT_MAX,
            Arc::new(ControlDesk(Arc::clone(&house))),
        )?;
        let connexpay = Upstream {
            name: connexpay::NAME,
            site,
            house: Arc::clone(&house),
            processor: connexpay,
        };
        Ok(Self {
            house,
            door,
            control,
            scheme,
            connexpay,
        })
    }

    /// Where the processors listen.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Where the control API listens, whatever happens to the processors' address.
    pub fn control_address(&self) -> SocketAddr {
        self.control.address()
    }

    /// The base URL of ConnexPay's Sales API, without a slash at the end.
    pub fn connexpay_url(&self) -> String {
        format!(
            "{}://{}/{}/api/v1",
            self.scheme,
            self.address(),
            connexpay::NAME
        )
    }

    pub fn connexpay(&self) -> &Upstream<ConnexPay> {
        &self.connexpay
    }

    /// Every connection to the processors' address, oldest first, ended ones included.
    pub fn connections(&self) -> Vec<ConnectionRecord> {
        self.door.connections()
    }

    /// Waits until the connections are as `satisfied` wants them.
    ///
    /// # Errors
    /// `StillWaiting` after [`WAIT_MAX`].
    pub async fn wait_for_connections(
        &self,
        satisfied: impl Fn(&[ConnectionRecord]) -> bool,
    ) -> Result<Vec<ConnectionRecord>, StillWaiting> {
        self.door.wait_for("connections", satisfied).await
    }

    /// Empties books and journals and lifts every fault. Rules stay as they are, and access tokens stay valid.
    ///
    /// # Errors
    /// When the books cannot be emptied.
    pub async fn reset(&self) -> io::Result<()> {
        self.house.reset().await
    }

    /// Closes every socket. From its start nothing reaches the books any more, as if the process had been killed;
    /// after it the ports are free.
    pub async fn shutdown(self) {
        for (_, site) in &self.house.sites {
            site.close().await;
        }
        self.door.close().await;
        self.control.close().await;
    }
}

/// One simulated processor, as a test holds it: what the control API can do, and more, without HTTP.
#[derive(Debug)]
pub struct Upstream<P> {
    name: &'static str,
    site: Arc<Site>,
    house: Arc<House>,
    processor: Arc<P>,
}

impl<P> std::ops::Deref for Upstream<P> {
    type Target = P;

    /// To what only this processor knows: its typed books, its rules, its clock.
    fn deref(&self) -> &P {
        &self.processor
    }
}

impl<P> Upstream<P> {
    /// Puts these faults in force instead of those before; `seed` is that of their probabilities.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub async fn set_faults(&self, faults: Vec<Fault>, seed: u64) -> Result<(), Vec<String>> {
        self.house
            .order(self.name, FaultOrder { faults, seed })
            .await
    }

    /// Puts this one fault in force.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn set_fault(&self, fault: Fault) -> Result<(), Vec<String>> {
        self.set_faults(vec![fault], 0).await
    }

    /// Lifts every fault; whoever hangs is let go without an answer.
    ///
    /// # Errors
    /// When the listening socket cannot be opened again.
    pub async fn lift_faults(&self) -> Result<(), Vec<String>> {
        self.set_faults(Vec::new(), 0).await
    }

    /// The faults in force, with how often each matched and struck.
    pub fn faults(&self) -> Vec<InForce> {
        self.site.faults.in_force()
    }

    /// Holds matching requests at that moment until the gate is released or dropped.
    pub fn hold(&self, moment: Moment, selector: Selector) -> Gate {
        self.site.gates.hold(moment, selector)
    }

    /// Makes every pending `commit_late` commit now.
    pub fn release_late(&self) {
        self.site.release_late();
    }

    /// The requests received, oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.site.journal.all()
    }

    /// The requests of one verb, oldest first.
    pub fn requests_of(&self, verb: &str) -> Vec<RequestRecord> {
        self.requests()
            .into_iter()
            .filter(|record| record.verb == verb)
            .collect()
    }

    /// How many requests were ever received; no reset makes it smaller.
    pub fn request_count(&self) -> u64 {
        self.site.journal.received()
    }

    /// How many requests of this verb were received since the last reset.
    pub fn request_count_of(&self, verb: &str) -> u64 {
        self.site.journal.received_of(verb)
    }

    /// Waits until `count` requests satisfy `predicate`, and returns all that do.
    ///
    /// # Errors
    /// `StillWaiting` after [`WAIT_MAX`].
    pub async fn wait_for_requests(
        &self,
        count: usize,
        predicate: impl Fn(&RequestRecord) -> bool,
    ) -> Result<Vec<RequestRecord>, StillWaiting> {
        self.site.journal.wait_for(count, predicate).await
    }
}

/// The processors behind one door, and what the control API does to them.
#[derive(Debug)]
pub(crate) struct House {
    sites: Vec<(&'static str, Arc<Site>)>,
    door: Mutex<Option<std::sync::Weak<Door>>>,
    idle_limit: Option<Duration>,
}

impl House {
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.sites.iter().map(|(name, _)| *name).collect()
    }

    pub(crate) fn site(&self, name: &str) -> Option<&Arc<Site>> {
        self.sites
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, site)| site)
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionRecord> {
        self.door().map_or_else(Vec::new, |door| door.connections())
    }

    pub(crate) async fn order(&self, name: &str, order: FaultOrder) -> Result<(), Vec<String>> {
        let site = self
            .site(name)
            .ok_or_else(|| vec![format!("no upstream {name:?}")])?;
        site.faults.order(order, site.processor.verbs())?;
        self.arrange_door().await.map_err(|error| vec![error])
    }

    pub(crate) async fn reset(&self) -> io::Result<()> {
        for (name, site) in &self.sites {
            self.order(name, FaultOrder::default())
                .await
                .map_err(|errors| io::Error::other(errors.join("; ")))?;
            site.reset().await?;
        }
        Ok(())
    }

    /// The processors share one address: a fault of the connection at one of them is one at all.
    async fn arrange_door(&self) -> Result<(), String> {
        let Some(door) = self.door() else {
            return Ok(());
        };
        let find = |kind| {
            self.sites
                .iter()
                .find_map(|(_, site)| site.faults.find(kind))
        };
        let limit = find(Kind::CloseIdle).map(|fault| fault.duration(Duration::ZERO));
        door.limit_idle(limit.or(self.idle_limit));
        let outage = find(Kind::Outage).is_some();
        if outage || find(Kind::RefuseConnection).is_some() {
            door.refuse().await.map_err(|error| error.to_string())?;
        } else {
            door.admit().await.map_err(|error| error.to_string())?;
        }
        if outage {
            door.reset_all().await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn door(&self) -> Option<Arc<Door>> {
        locked(&self.door).as_ref()?.upgrade()
    }
}

impl Host for House {
    async fn serve(self: Arc<Self>, link: Arc<Link>, request: Request<Incoming>) -> Answer {
        let ordinal = link.begin();
        let _busy = Busy(&link);
        let path = request.uri().path().to_owned();
        if let Some(rest) = path.strip_prefix("/_sandbox/") {
            return Ok(control::answer(&self, rest, request).await);
        }
        let named = path.trim_start_matches('/').split_once('/');
        let Some((site, rest)) = named.and_then(|(name, rest)| Some((self.site(name)?, rest)))
        else {
            return Ok(not_found());
        };
        site.serve(&link, ordinal, format!("/{rest}"), request)
            .await
    }

    fn resets_connection(&self) -> bool {
        self.sites
            .iter()
            .any(|(_, site)| site.faults.strikes_connection())
    }
}

/// Marks the connection idle again, also when the handler is dropped.
struct Busy<'a>(&'a Link);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The control API on its own address.
struct ControlDesk(Arc<House>);

impl Host for ControlDesk {
    async fn serve(self: Arc<Self>, _link: Arc<Link>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        match path.strip_prefix("/_sandbox/") {
            Some(rest) => Ok(control::answer(&self.0, rest, request).await),
            None => Ok(not_found()),
        }
    }

    fn resets_connection(&self) -> bool {
        false
    }
}

fn not_found() -> Response<Full<bytes::Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// A panic in one handler must not hide the books from the test that asks why.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Real wall-clock time, for people who compare journals.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) async fn within<T>(
    what: &'static str,
    wait: impl Future<Output = T>,
) -> Result<T, StillWaiting> {
    tokio::time::timeout(WAIT_MAX, wait)
        .await
        .map_err(|_| StillWaiting(what))
}

/// The first half of a SHA-256, in hexadecimal: enough to tell things apart.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let whole = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let half = whole.as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}
