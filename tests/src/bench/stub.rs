//! An upstream that approves every sale, at the least cost and at the pace it is told: what is measured is the gateway.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::wire::{Wire, broken, find};

/// When a sale is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    AtOnce,
    After(Duration),
    /// Not before it is told otherwise.
    Held,
}

/// Serves until it is dropped; counts the connections that were opened.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    pace: watch::Receiver<Pace>,
    connected: Arc<AtomicU64>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let sales = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        connected.fetch_add(1, Ordering::Relaxed);
        let (wire, sales, pace) = (Wire::new(stream)?, Arc::clone(&sales), pace.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(wire, &sales, pace).await {
                eprintln!("the stub upstream: {error}");
            }
        });
    }
}

async fn answer(
    mut wire: Wire,
    sales: &AtomicU64,
    mut pace: watch::Receiver<Pace>,
) -> io::Result<()> {
    let (mut body, mut message) = (Vec::new(), Vec::new());
    while wire.read().await? {
        body.clear();
        if wire.head().starts_with(b"POST /api/v1/sales ") {
            let number = sales.fetch_add(1, Ordering::Relaxed);
            sale(&mut body, number, wire.body())?;
            let Ok(now) = pace
                .wait_for(|pace| *pace != Pace::Held)
                .await
                .map(|now| *now)
            else {
                return Ok(()); // It is over.
            };
            if let Pace::After(span) = now {
                sleep(span).await;
            }
        } else if wire.head().starts_with(b"POST /api/v1/token ") {
            body.extend_from_slice(
                br#"{"access_token":"a-token-of-the-benchmark","token_type":"bearer","expires_in":86399}"#,
            );
        } else {
            return Err(broken("neither a sale nor a token was asked for"));
        }
        message.clear();
        write!(
            message,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        message.extend_from_slice(&body);
        wire.stream.write_all(&message).await?;
    }
    Ok(())
}

/// An approval as long as theirs, for the device, amount and sequence number that were sent.
fn sale(answer: &mut Vec<u8>, number: u64, request: &[u8]) -> io::Result<()> {
    let device = field(request, b"\"DeviceGuid\":")?;
    let amount = field(request, b"\"Amount\":")?;
    let sequence = field(request, b"\"SequenceNumber\":")?;
    write!(
        answer,
        concat!(
            r#"{{"guid":"5a1e0000-0000-4000-8000-{number:012x}","status":"Transaction - Approved","#,
            r#""batchStatus":"Batch - Open","timeStamp":"2026-11-20T11:09:00.123-03:00","deviceGuid":{device},"#,
            r#""amount":{amount},"effectiveAmount":{amount},"riskResponse":{{"transactionId":"79S{number}","#,
            r#""response":"Approved","reason":"","score":"34"}},"connexPayTransaction":{{"#,
            r#""guid":"c0ffee00-0000-4000-8000-{number:012x}","expectedPayments":0,"filler":"ZZZ","#,
            r#""incomingTransCode":"00ZZZTAS35611202600150000"}},"cardDataSource":"INTERNET","#,
            r#""batchGuid":"ba7c0000-0000-4000-8000-000000000001","processorStatusCode":"A0000","#,
            r#""processorResponseMessage":"Success","wasProcessed":true,"authCode":"TAS356","#,
            r#""refNumber":"{number}","invoiceNumber":{sequence},"generatedBy":"apiuser","#,
            r#""orderNumber":{sequence},"card":{{"first4":"4012","last4":"5439","#,
            r#""cardNumber":"nr959X7eCIXI5439","cardHolderName":"Jane Doe","cardType":"Visa","#,
            r#""expirationDate":"2030-12"}},"sequenceNumber":{sequence},"addressVerificationCode":"Z","#,
            r#""addressVerificationResult":"Zip Match","cvvVerificationCode":"M","#,
            r#""cvvVerificationResult":"CVV2 matches","riskProcessingOnly":false}}"#,
        ),
        number = number,
        device = device,
        amount = amount,
        sequence = sequence,
    )
}

/// A field's value as it stands in the JSON; none of those read here holds a comma or a brace.
fn field<'a>(json: &'a [u8], name: &[u8]) -> io::Result<&'a str> {
    let value = find(json, name).map(|at| &json[at + name.len()..]);
    let value = value.and_then(|rest| {
        let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
        str::from_utf8(&rest[..end]).ok()
    });
    value.ok_or_else(|| broken(&format!("a sale without {}", String::from_utf8_lossy(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_is_approved_as_it_was_asked_for() {
        let asked = br#"{"DeviceGuid":"d-1","Amount":1500.00,"SequenceNumber":"S1","Card":{}}"#;
        let mut answer = Vec::new();
        sale(&mut answer, 7, asked).expect("a sale");
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["deviceGuid"], "d-1");
        assert_eq!(answer["sequenceNumber"], "S1");
        assert_eq!(answer["amount"], 1500.0);
        assert_eq!(answer["status"], "Transaction - Approved");
    }
}
