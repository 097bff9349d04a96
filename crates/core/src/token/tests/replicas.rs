//! Keepers that share a ledger: replicas, and restarts of one.

use super::*;

#[tokio::test(start_paused = true)]
async fn replicas_share_one_token_and_do_not_fight_over_it() {
    let world = World::new();
    let (one, other) = (world.keeper(), world.keeper());
    assert!(world.call(&one).await && world.call(&other).await);
    assert_eq!(
        world.upstream.asked(),
        1,
        "the second found it in the ledger"
    );

    // Each end of a token, whoever notices, costs one fetch: the other finds the new one in the ledger.
    for round in 0..20 {
        let before = world.upstream.asked();
        world.upstream.kill_all();
        let (first, second) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        assert!(world.call(first).await && world.call(second).await);
        assert_eq!(world.upstream.asked(), before + 1);
        sleep(Duration::from_secs(61)).await;
    }
    // Both notice at once, and the one waits while the other fetches.
    world.upstream.slow();
    let before = world.upstream.asked();
    world.upstream.kill_all();
    let (first, second) = tokio::join!(world.call(&one), world.call(&other));
    assert!(first && second);
    assert_eq!(world.upstream.asked(), before + 1);
    assert_eq!((one.health().storms, other.health().storms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_in_time_by_one_replica_costs_the_other_no_fetch() {
    let world = World::new();
    let (one, other) = (world.keeper(), world.keeper());
    assert!(world.call(&one).await && world.call(&other).await);
    for life in 1..=5 {
        sleep(LIFE).await;
        assert!(world.call(&one).await && world.call(&other).await);
        // Lives overlap by 10 to 20 %, so five ends of one second each hold six or seven tokens.
        assert!(
            world.upstream.asked() <= 1 + life * 5 / 4 + 1,
            "{} fetches",
            world.upstream.asked()
        );
    }
    assert_eq!((one.health().storms, other.health().storms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_the_lock_replicas_that_fetch_at_once_still_come_to_agree() {
    let world = World::without_lock();
    world.upstream.slow();
    let (one, other) = (world.keeper(), world.keeper());
    let _ = tokio::join!(one.current(), other.current());
    for _ in 0..20 {
        world.upstream.kill_all();
        let _ = tokio::join!(world.call(&one), world.call(&other));
        // Whoever lost the race is refused once more at most, and then both hold what the ledger holds.
        assert!(world.call(&one).await);
        assert!(world.call(&other).await);
        let before = world.upstream.asked();
        assert!(world.call(&one).await && world.call(&other).await);
        assert_eq!(world.upstream.asked(), before, "at peace");
        sleep(Duration::from_secs(61)).await;
    }
    assert_eq!((one.health().storms, other.health().storms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_takes_the_ledgers_token() {
    let world = World::new();
    world.keeper().current().await.expect("a token");
    sleep(Duration::from_secs(500)).await;
    let restarted = world.keeper();
    assert_eq!(
        restarted.current().await.expect("a token").expose(),
        "canary-1"
    );
    assert_eq!(restarted.seconds_left(), 500);
    assert_eq!(world.upstream.asked(), 1);
    assert!(restarted.health().saved);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_ledger_near_its_end_serves_only_if_there_is_no_other() {
    let world = World::new();
    world.keeper().current().await.expect("a token");
    sleep(Duration::from_secs(970)).await;
    world.upstream.down();
    let restarted = world.keeper();
    let token = restarted.current().await.expect("the old one, to its end");
    assert_eq!(token.expose(), "canary-1");
    world.upstream.set(Endpoint::Up);
    let another = world.keeper();
    let token = another.current().await.expect("a token");
    assert_eq!(
        token.expose(),
        "canary-2",
        "clocks may differ by more than what is left"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_replica_finds_the_luckier_ones_token_even_in_its_own_pause() {
    let world = World::new();
    let unlucky = world.keeper();
    assert!(world.call(&unlucky).await);
    let refusal = TokenError::Refused {
        detail: "400".to_owned(),
    };
    world.upstream.set(Endpoint::Fails(refusal));
    sleep(Duration::from_secs(905)).await;
    assert!(
        unlucky.health().failures > 0,
        "its refresh in time has failed"
    );
    world.upstream.set(Endpoint::Up);
    let lucky = world.keeper();
    assert!(world.call(&lucky).await);
    while lucky.health().fetches == 0 {
        tokio::task::yield_now().await; // It took the ledger's token, and refreshes it as it is old.
    }
    let before = world.upstream.asked();
    assert!(world.call(&unlucky).await);
    assert_eq!(world.upstream.asked(), before);
}

#[tokio::test(start_paused = true)]
async fn an_ended_token_of_the_ledger_is_not_used() {
    let world = World::new();
    {
        let keeper = world.keeper();
        keeper.current().await.expect("a token");
    }
    sleep(LIFE).await;
    assert_eq!(
        world.keeper().current().await.expect("a token").expose(),
        "canary-2"
    );
    assert_eq!(world.ledger.row().expect("a row").generation, 2);
}

#[tokio::test(start_paused = true)]
async fn with_the_ledger_away_memory_serves_and_the_token_is_saved_later() {
    let world = World::new();
    world.ledger.away.store(true, Ordering::SeqCst);
    let keeper = world.keeper();
    let token = keeper.current().await.expect("a token");
    assert!(!keeper.health().saved);
    let token = keeper.replace(token.generation()).await.expect("a token");
    assert_eq!(token.expose(), "canary-2");

    world.ledger.away.store(false, Ordering::SeqCst);
    sleep(TokenOptions::default().pause_max + Duration::from_millis(1)).await;
    assert!(keeper.health().saved);
    assert_eq!(
        world.keeper().current().await.expect("a token").expose(),
        "canary-2"
    );
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_saved_later_gives_way_to_a_newer_one() {
    let world = World::new();
    world.ledger.away.store(true, Ordering::SeqCst);
    let lonely = world.keeper();
    assert!(world.call(&lonely).await);
    sleep(Duration::from_millis(100)).await;
    world.ledger.away.store(false, Ordering::SeqCst);
    let other = world.keeper();
    assert!(world.call(&other).await);
    assert_eq!(world.upstream.asked(), 2);
    sleep(TokenOptions::default().pause_max).await;
    assert_eq!(
        lonely.current().await.expect("a token").expose(),
        "canary-2"
    );
    assert!(world.call(&lonely).await);
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_is_recognised() {
    let world = World::new();
    let keeper = world.keeper();
    world
        .ledger
        .loses_acknowledgements
        .store(true, Ordering::SeqCst);
    keeper.current().await.expect("a token");
    assert!(!keeper.health().saved);
    sleep(TokenOptions::default().pause_max + Duration::from_millis(1)).await;
    assert!(keeper.health().saved);
    assert_eq!(
        world.ledger.row().expect("a row").generation,
        1,
        "not written twice"
    );
}

#[tokio::test(start_paused = true)]
async fn a_row_under_another_key_is_replaced() {
    let world = World::new();
    world.keeper().current().await.expect("a token");
    let keeper = world.keeper_with(&"08".repeat(32));
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-2"
    );
    assert_eq!(world.ledger.row().expect("a row").generation, 2);
}
