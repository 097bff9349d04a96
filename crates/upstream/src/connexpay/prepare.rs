//! What must be known before a void or a refund is recorded: what stands, whether it is settled, and the sale's id.

use gateway_core::connector::{NotSent, PrepareError, Prepared, Subject};
use gateway_core::operation::Verb;

use super::ConnexPay;
use super::requests::{Missing, Target, id};
use super::searches::{Asking, Kind, Stands};
use crate::pool::Transport;

/// The form that the follow-up takes, and the baseline for comparing afterwards.
pub(super) async fn prepare(
    connector: &ConnexPay<impl Transport>,
    subject: &Subject,
) -> Result<Prepared, PrepareError> {
    let mut prepared = Prepared::default();
    let mut subject = subject.clone();
    let mut asking = Asking::new(connector, &subject);
    // A capture whose answer was lost, or came without its sale.
    if let (None, Some(capture)) = (id(&subject, "sale"), id(&subject, "capture")) {
        let sale = asking.sale_of(capture).await.map_err(could_not)?;
        prepared.ids.insert("sale".to_owned(), sale.clone());
        subject.parent.0.insert("sale".to_owned(), sale);
    }
    let asking = Asking::new(connector, &subject);
    match subject.verb {
        Verb::Void => void(connector, asking, &subject, prepared).await,
        Verb::Refund => refund(connector, asking, &subject, prepared).await,
        _ => Ok(prepared),
    }
}

async fn void<W: Transport>(
    connector: &ConnexPay<W>,
    mut asking: Asking<'_, W>,
    subject: &Subject,
    prepared: Prepared,
) -> Result<Prepared, PrepareError> {
    let (kind, guid) = match Target::of(subject) {
        Ok(Target::Sale(guid)) => (Kind::Sales, guid),
        Ok(Target::Authorization(guid)) => (Kind::AuthOnlys, guid),
        Err(missing) => return Err(no_id(&missing)),
    };
    let stands = asking
        .stands(kind, guid, reference(subject))
        .await
        .map_err(could_not)?;
    if stands.remaining == 0 {
        return Err(nothing_left("nothing of it is left at the processor"));
    }
    if stands.settled {
        return Err(PrepareError::AlreadySettled);
    }
    Ok(Prepared {
        baseline: baseline(connector, &stands)?,
        ..prepared
    })
}

async fn refund<W: Transport>(
    connector: &ConnexPay<W>,
    mut asking: Asking<'_, W>,
    subject: &Subject,
    prepared: Prepared,
) -> Result<Prepared, PrepareError> {
    let Some(sale) = id(subject, "sale") else {
        return Err(no_id(&Missing::Id("sale")));
    };
    let stands = asking
        .stands(Kind::Sales, sale, reference(subject))
        .await
        .map_err(could_not)?;
    let asked = subject.amount.minor();
    if stands.remaining < asked {
        // Whether the processor caps the sum of several returns is not documented, so it is done here.
        return Err(nothing_left(
            "the processor's books leave less than is to be returned",
        ));
    }
    let as_void = !stands.settled;
    if as_void && stands.remaining != asked {
        return Err(PrepareError::NotSettled);
    }
    Ok(Prepared {
        baseline: baseline(connector, &stands)?,
        as_void,
        ..prepared
    })
}

/// What stood before. Where the record could not be read just now there is none to be had; and what is lost without one may
/// wait for a person, so it had better not be sent. Where the processor has no such route there never is one.
fn baseline<W: Transport>(
    connector: &ConnexPay<W>,
    stands: &Stands,
) -> Result<Option<i64>, PrepareError> {
    match &stands.unread {
        Some(unread) if connector.config.record_routes => Err(could_not(unread.clone())),
        _ => Ok(stands.baseline()),
    }
}

fn reference(subject: &Subject) -> Option<&str> {
    subject.parent_reference.as_ref().map(AsRef::as_ref)
}

fn could_not(detail: String) -> PrepareError {
    PrepareError::CouldNotAsk(NotSent::Unreachable { detail })
}

fn no_id(missing: &Missing) -> PrepareError {
    let detail = match missing {
        Missing::Id(name) => format!("the payment has no {name} at this processor"),
        Missing::Card | Missing::Verb => "this verb has no parent".to_owned(),
    };
    PrepareError::NothingLeft { detail }
}

fn nothing_left(detail: &str) -> PrepareError {
    PrepareError::NothingLeft {
        detail: detail.to_owned(),
    }
}
