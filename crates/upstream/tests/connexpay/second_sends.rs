//! The repeat after a 401: what an answer to the second request proves about the first.

use gateway_core::connector::{Connector, DeclineClass, UnknownReason, Verdict};
use gateway_core::operation::Verb;

use crate::world::{Gate, Reply, World, error, payer};

/// What a sale comes to whose first request meets an expired token, if `expired`, and whose last is refused like this.
async fn refused(expired: bool, refusal: &'static str) -> Verdict {
    let world = World::new(move |seen| match seen.call.as_str() {
        "POST /sales" if expired && seen.token == "Bearer token-1" => {
            error(401, "Authorization has been denied for this request.")
        }
        "POST /sales" => error(422, refusal),
        _ => Reply::Empty(404),
    })
    .await;
    let gate = Gate::open_for(2);
    let subject = world.subject(Verb::Sale, 150_000);
    let payer = payer();
    let answer = world.connector.execute(&subject, Some(&payer), &gate);
    let verdict = answer.await.verdict;
    assert_eq!(gate.asked(), if expired { 2 } else { 1 });
    verdict
}

#[tokio::test]
async fn a_duplicate_refusal_of_the_repeat_may_be_of_ours() {
    for duplicate in [
        "Error code D0008. Duplicate Request.",
        "Error code D0001. Duplicate Request (Approved previously)",
    ] {
        let repeated = refused(true, duplicate).await;
        assert_eq!(
            repeated,
            Verdict::Unknown(UnknownReason::DuplicateOfOurs),
            "{duplicate}"
        );
        let first = refused(false, duplicate).await;
        let Verdict::Declined(decline) = &first else {
            panic!("{first:?}")
        };
        assert_eq!(decline.class, DeclineClass::Duplicate);
    }
}

#[tokio::test]
async fn any_other_no_to_the_repeat_is_an_answer() {
    let declined = refused(true, "Error code D2026. Do not honor").await;
    let Verdict::Declined(decline) = &declined else {
        panic!("{declined:?}")
    };
    assert_eq!(decline.code.as_deref(), Some("D2026"));
}
