//! What the processor answers to sends and reversals: only a well-formed yes to what was asked is a yes.

use gateway_core::connector::{
    AlwaysOpen, Approval, CallEvidence, Connector, NotSent, ReversalForm, Undone, UpstreamIds,
    Verdict,
};
use gateway_core::operation::Verb;
use http::StatusCode;

use super::processor::{
    AMOUNT, AUTHORIZATION, DEVICE, Exchanged, REFERENCE, SALE, Scripted, Stage,
    assert_keeps_secrets, on_stage, payer, prepared, script, subject,
};
use super::theirs::Fields;

/// Longer than any text of ours about an answer, in characters; and stored, where each may be written as an escape.
const TEXT_MAX: usize = 300;
const STORED_MAX: usize = 10 * TEXT_MAX;

/// The script's answers to every verb, and to every form of a reversal.
pub(super) fn upstream_answers(data: &[u8]) {
    let script = script(data);
    on_stage(|stage| {
        for verb in [Verb::Sale, Verb::Authorize, Verb::Verify] {
            stage.wire.play(&script);
            let subject = subject(verb, &[]);
            let payer = payer();
            let answer =
                stage.block_on(stage.connector.execute(&subject, Some(&payer), &AlwaysOpen));
            check(stage, verb, false, &answer.verdict, &answer.evidence);
        }
        let sale: &[_] = &[("sale", SALE)];
        let authorization: &[_] = &[("authorization", AUTHORIZATION)];
        for (verb, ids, as_void) in [
            (Verb::Capture, authorization, false),
            (Verb::Void, sale, false),
            (Verb::Void, authorization, false),
            (Verb::Refund, sale, false),
            (Verb::Refund, sale, true),
        ] {
            stage.wire.play(&script);
            let subject = prepared(subject(verb, ids), AMOUNT, as_void);
            let answer = stage.block_on(stage.connector.execute(&subject, None, &AlwaysOpen));
            check(stage, verb, as_void, &answer.verdict, &answer.evidence);
        }
        let ids = UpstreamIds::default().with("sale", SALE);
        for form in [
            ReversalForm::ByReference,
            ReversalForm::Void { ids: ids.clone() },
            ReversalForm::Refund {
                ids,
                amount: AMOUNT,
            },
        ] {
            stage.wire.play(&script);
            let subject = subject(Verb::Sale, &[]);
            let undo = stage.block_on(stage.connector.reverse(&subject, &form, &AlwaysOpen));
            check_undone(stage, &form, &undo.outcome, &undo.evidence);
        }
    });
}

/// At most one repeat, and that after a `401`. Returns the exchange that decided.
fn deciding(stage: &Stage, evidence: &[CallEvidence]) -> Exchanged {
    let exchanged = stage.wire.exchanged();
    assert_eq!(exchanged.len(), evidence.len(), "a call without its proof");
    match exchanged.as_slice() {
        [only] => only.clone(),
        [first, second] => {
            let refused = matches!(&first.answer, Scripted::Whole { status, .. } if *status == StatusCode::UNAUTHORIZED);
            assert!(refused, "sent again after {:?}", first.answer);
            second.clone()
        }
        other => panic!("{} sends", other.len()),
    }
}

fn check(stage: &Stage, verb: Verb, as_void: bool, verdict: &Verdict, evidence: &[CallEvidence]) {
    let decided = deciding(stage, evidence);
    let whole = match &decided.answer {
        Scripted::Whole { status, .. } => Some(status.as_u16()),
        Scripted::Closed | Scripted::Silent => {
            assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
            None
        }
        Scripted::Unsent => {
            assert!(
                matches!(verdict, Verdict::NotSent(NotSent::Unreachable { .. })),
                "{verdict:?}"
            );
            None
        }
    };
    let theirs = Fields::of(&decided.answer);
    match verdict {
        Verdict::Approved(approval) => {
            let (status, fields) = theirs.expect("approved without an object");
            assert!((200..300).contains(&status), "approved by {status}");
            check_approval(verb, as_void, approval, &fields);
            serde_json::to_string(approval).expect("stored");
        }
        Verdict::Declined(decline) | Verdict::Refused(decline) => {
            let (status, _) = theirs.expect("a no without an object");
            assert!((200..300).contains(&status) || (400..500).contains(&status));
            assert!(decline.message.chars().count() <= TEXT_MAX);
            serde_json::to_string(decline).expect("stored");
        }
        Verdict::NotSent(NotSent::RefusedUnprocessed { .. }) => {
            let (status, fields) = theirs.expect("a refusal without an object");
            assert_eq!(status, 401);
            let told = fields.text("message").or(fields.text("Message"));
            assert!(told.is_some(), "a 401 that is not this API's");
        }
        Verdict::NotSent(_) => assert_eq!(whole, None),
        Verdict::Unknown(reason) => {
            assert!(serde_json::to_string(reason).expect("stored").len() <= STORED_MAX);
        }
    }
    assert_keeps_secrets(verdict);
}

fn check_approval(verb: Verb, as_void: bool, approval: &Approval, fields: &Fields) {
    let made = fields.object("relatedSale").or(fields.object("sale"));
    let made = made.filter(|_| verb == Verb::Capture);
    let by_sale = fields.text("status").is_none();
    let says = if by_sale { made.as_ref() } else { Some(fields) };
    assert!(says.is_some_and(Fields::is_approved), "no status says yes");
    assert!(!fields.is_false("wasProcessed"), "not processed");
    let guid = fields.text("guid").expect("an id");
    assert!(guid.eq_ignore_ascii_case(&approval.upstream_reference));
    assert_eq!(guid.len(), 36);
    let same = |name: &str, ours: &str| {
        let theirs = fields.text(name);
        assert!(
            theirs.is_none_or(|theirs| theirs.eq_ignore_ascii_case(ours)),
            "somebody else's {name}"
        );
    };
    same("deviceGuid", DEVICE);
    match verb {
        Verb::Sale | Verb::Authorize | Verb::Capture => same("sequenceNumber", REFERENCE),
        _ => {}
    }
    // What has not the form of an id names nobody.
    let names = |name: &str| fields.text(name).is_some_and(|id| is_guid(&id));
    match verb {
        Verb::Capture if names("authOnlyGuid") => same("authOnlyGuid", AUTHORIZATION),
        Verb::Refund if names("saleGuid") => same("saleGuid", SALE),
        _ => {}
    }
    let amounts: Vec<_> = match verb {
        Verb::Verify => Vec::new(),
        Verb::Void => return, // The amounts there are its parent's.
        Verb::Refund if as_void => return,
        Verb::Refund => vec![fields.cents("amount")],
        Verb::Sale | Verb::Authorize => {
            vec![fields.cents("amount"), fields.cents("effectiveAmount")]
        }
        _ => {
            let mut amounts = vec![
                fields.cents("newAmount"),
                fields.cents("amount"),
                fields.cents("effectiveAmount"),
            ];
            if let Some(made) = &made {
                amounts.extend([made.cents("amount"), made.cents("effectiveAmount")]);
            }
            amounts
        }
    };
    let amounts: Result<Vec<_>, ()> = amounts.into_iter().collect();
    let amounts = amounts.expect("approved with an amount that cannot be read");
    let mut amounts: Vec<_> = amounts.into_iter().flatten().collect();
    if verb != Verb::Verify {
        let part = fields.cents("partiallyApprovedAmount");
        let part = part.expect("approved with an amount that cannot be read");
        amounts.extend(part.filter(|part| *part != 0));
    }
    let approved = i128::from(approval.amount.minor());
    let asked = if verb == Verb::Verify { 0 } else { AMOUNT };
    if approved == i128::from(asked) {
        assert!(
            amounts.iter().all(|amount| *amount == approved),
            "approved for what was asked, and the answer tells another amount"
        );
    } else {
        assert!(amounts.contains(&approved), "an amount that nobody told");
    }
}

fn is_guid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let zeros = text.bytes().all(|byte| matches!(byte, b'0' | b'-'));
    uuid::Uuid::try_parse(text).is_ok() && text.len() == 36 && digits == 32 && !zeros
}

fn check_undone(stage: &Stage, form: &ReversalForm, undone: &Undone, evidence: &[CallEvidence]) {
    let decided = deciding(stage, evidence);
    if let Undone::Done { .. } = undone {
        let Scripted::Whole { status, body, .. } = &decided.answer else {
            panic!("undone without an answer");
        };
        assert!(status.is_success());
        if matches!(form, ReversalForm::ByReference) {
            let text = String::from_utf8_lossy(body).to_lowercase();
            assert!(text.contains("void") || text.contains('\\'), "{text}");
        } else {
            let (_, fields) = Fields::of(&decided.answer).expect("an object");
            assert!(fields.is_approved());
        }
    }
    if matches!(decided.answer, Scripted::Closed | Scripted::Silent) {
        assert!(matches!(undone, Undone::Unknown(_)), "{undone:?}");
    }
    assert_keeps_secrets(undone);
}
