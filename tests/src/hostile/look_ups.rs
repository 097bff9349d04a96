//! What the processor answers to look-ups and to the questions before a follow-up: only a record that is ours is ours.

use gateway_core::connector::{
    Connector, Control, Finding, Found, PrepareError, Prepared, Subject, UpstreamIds,
};
use gateway_core::key::UpstreamReference;
use gateway_core::operation::Verb;

use super::processor::{
    AMOUNT, AUTHORIZATION, CAPTURE, CONTROL, KNOWN, REFERENCE, SALE, Scripted, Stage,
    assert_keeps_secrets, on_stage, prepared, script, subject,
};
use super::theirs::tell;

/// The script's answers to a look-up of every verb, and to what is asked before a void or a refund.
pub(super) fn upstream_look_ups(data: &[u8]) {
    let script = script(data);
    let known = control();
    on_stage(|stage| {
        for (subject, control) in [
            (subject(Verb::Sale, &[]), Some(&known)),
            (subject(Verb::Sale, &[("sale", SALE)]), None),
            (subject(Verb::Authorize, &[]), Some(&known)),
            (subject(Verb::Authorize, &[]), None),
            (
                subject(Verb::Authorize, &[("authorization", AUTHORIZATION)]),
                None,
            ),
            (
                subject(
                    Verb::Authorize,
                    &[("authorization", AUTHORIZATION), ("sale", SALE)],
                ),
                None,
            ),
            (
                subject(Verb::Capture, &[("authorization", AUTHORIZATION)]),
                None,
            ),
            (
                prepared(subject(Verb::Void, &[("sale", SALE)]), AMOUNT, false),
                None,
            ),
            (
                prepared(
                    subject(Verb::Void, &[("authorization", AUTHORIZATION)]),
                    AMOUNT,
                    false,
                ),
                None,
            ),
            (
                prepared(subject(Verb::Refund, &[("sale", SALE)]), 10 * AMOUNT, false),
                None,
            ),
            (
                prepared(subject(Verb::Refund, &[("sale", SALE)]), AMOUNT, true),
                None,
            ),
        ] {
            look_up(stage, &script, &subject, control);
        }
        for (verb, ids) in [
            (Verb::Void, ("sale", SALE)),
            (Verb::Void, ("authorization", AUTHORIZATION)),
            (Verb::Void, ("capture", CAPTURE)),
            (Verb::Refund, ("sale", SALE)),
            (Verb::Refund, ("capture", CAPTURE)),
        ] {
            stage.wire.play(&script);
            let subject = subject(verb, &[ids]);
            let prepared = stage.block_on(stage.connector.prepare(&subject));
            check_prepared(verb, &prepared);
        }
    });
}

fn control() -> Control {
    Control {
        reference: UpstreamReference::parse(CONTROL).expect("17 letters and digits"),
        ids: UpstreamIds::default()
            .with("sale", KNOWN)
            .with("authorization", KNOWN),
    }
}

fn look_up(stage: &Stage, script: &[Scripted], subject: &Subject, control: Option<&Control>) {
    stage.wire.play(script);
    let found = stage.block_on(stage.connector.look_up(subject, control));
    let exchanged = stage.wire.exchanged();
    assert_eq!(
        exchanged.len(),
        found.evidence.len(),
        "a call without its proof"
    );
    let told = |wanted: &str| {
        tell(
            exchanged.iter().map(|exchanged| exchanged.answer.clone()),
            wanted,
        )
    };
    let is_create = matches!(subject.verb, Verb::Sale | Verb::Authorize);
    match &found.finding {
        Finding::Found(what) => {
            let parents = subject.parent.0.values();
            let ours = if is_create && subject.parent.0.is_empty() {
                told(REFERENCE)
            } else {
                parents.into_iter().any(|id| told(id)) || told(REFERENCE)
            };
            assert!(ours, "found what nothing shows to be ours");
            if let Found::Approved { approval, standing } = what {
                assert!(
                    (0..=approval.amount.minor()).contains(&standing.remaining) || !is_create,
                    "{} stand of {}",
                    standing.remaining,
                    approval.amount
                );
                assert_eq!(approval.upstream_reference.len(), 36);
                serde_json::to_string(approval).expect("stored");
            }
        }
        Finding::NotFound { conclusive: true } if is_create => {
            assert!(control.is_some() && told(KNOWN), "conclusive by silence");
        }
        Finding::NotFound { .. } | Finding::Contradiction { .. } | Finding::CouldNotAsk { .. } => {}
    }
    assert_keeps_secrets(&found.finding);
}

fn check_prepared(verb: Verb, prepared: &Result<Prepared, PrepareError>) {
    if let Ok(prepared) = prepared {
        let baseline = prepared.baseline.unwrap_or(AMOUNT);
        match verb {
            Verb::Void => assert!(baseline > 0, "a void of nothing"),
            _ if prepared.as_void => assert_eq!(baseline, AMOUNT, "a void of more than is asked"),
            _ => assert!(baseline >= AMOUNT, "a refund of more than is left"),
        }
        for id in prepared.ids.values() {
            assert_eq!(id.len(), 36);
        }
    }
    assert_keeps_secrets(prepared);
}
