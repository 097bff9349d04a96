//! What every fault does on the wire, seen from a bare TCP connection; and the callers that tests use.

mod connections;
mod delivery;
mod tls;

use std::io;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connexpay::{DEVICE_USD, PASSWORD, USERNAME};
use super::{Options, Simulators};

/// Plain or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that writes requests and reads answers by hand, so that nothing is retried or hidden.
pub(crate) struct Caller {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(TcpStream::connect(address).await?))
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        let (stream, token) = (Box::new(stream), String::new());
        Self { stream, token }
    }

    pub(crate) async fn write(&mut self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: sandbox\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await
    }

    /// Reads one whole answer.
    pub(crate) async fn read(&mut self) -> io::Result<Heard> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        while bytes.len() < head_end + length {
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let body = String::from_utf8_lossy(&bytes[head_end..]).into_owned();
        Ok(Heard { status, head, body })
    }

    /// Everything that still comes, to the end of the stream.
    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<Heard> {
        self.write(method, path, body).await?;
        self.read().await
    }

    pub(crate) async fn post(&mut self, route: &str, body: &Value) -> Heard {
        let path = format!("/connexpay/api/v1/{route}");
        self.call("POST", &path, &body.to_string())
            .await
            .expect("an answer")
    }

    pub(crate) async fn get(&mut self, route: &str) -> Heard {
        self.call("GET", &format!("/connexpay/api/v1/{route}"), "")
            .await
            .expect("an answer")
    }

    pub(crate) async fn log_in(&mut self) {
        let form = format!("grant_type=password&username={USERNAME}&password={PASSWORD}");
        let heard = self
            .call("POST", "/connexpay/api/v1/token", &form)
            .await
            .expect("an answer");
        assert_eq!(heard.status, 200, "{}", heard.body);
        heard.json()["access_token"]
            .as_str()
            .expect("a token")
            .clone_into(&mut self.token);
    }
}

pub(crate) async fn started(options: Options) -> Simulators {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    Simulators::start(listener, None, options)
        .await
        .expect("simulators")
}

/// Simulators with the default rules and a caller that is logged in.
pub(crate) async fn ready() -> (Simulators, Caller) {
    let simulators = started(Options::default()).await;
    let caller = another(&simulators, "").await;
    (simulators, caller)
}

/// One more connection; logs in unless it is given a token.
pub(crate) async fn another(simulators: &Simulators, token: &str) -> Caller {
    let mut caller = Caller::connect(simulators.address())
        .await
        .expect("a connection");
    if token.is_empty() {
        caller.log_in().await;
    } else {
        token.clone_into(&mut caller.token);
    }
    caller
}

/// `amount` is decimal text in major units.
pub(crate) fn sale(amount: &str, sequence_number: &str) -> Value {
    let amount: Value = serde_json::from_str(amount).expect("a number");
    json!({
        "DeviceGuid": DEVICE_USD,
        "Amount": amount,
        "SequenceNumber": sequence_number,
        "OrderNumber": sequence_number,
        "RiskProcessingOnly": false,
        "ConnexPayTransaction": {"ExpectedPayments": 0},
        "RiskData": {"Gender": "M", "ProductType": "Service", "ProductItem": "SKU1"},
        "Card": card(),
    })
}

pub(crate) fn card() -> Value {
    json!({
        "CardNumber": "4012000098765439", "CardHolderName": "Jane Doe", "Cvv2": "999", "ExpirationDate": "3912",
        "Customer": {"FirstName": "Jane", "LastName": "Doe", "Address1": "107 7th Av.", "Zip": "85284"},
    })
}

pub(crate) fn sale_path() -> &'static str {
    "/connexpay/api/v1/sales"
}
