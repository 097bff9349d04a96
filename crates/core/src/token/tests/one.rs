//! One keeper and its upstream.

use super::*;

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_cause_one_fetch() {
    let world = World::new();
    let keeper = world.keeper();
    world.upstream.close();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let keeper = Arc::clone(&keeper);
        callers.spawn(async move { keeper.current().await });
    }
    while world.upstream.asked() == 0 {
        tokio::task::yield_now().await;
    }
    world.upstream.open();
    while let Some(token) = callers.join_next().await {
        assert_eq!(
            token.expect("no panic").expect("a token").expose(),
            "canary-1"
        );
    }
    assert_eq!(world.upstream.asked(), 1);
    assert_eq!(keeper.current().await.expect("a token").generation(), 1);
    assert_eq!(world.upstream.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_does_not_lose_the_fetch() {
    let world = World::new();
    let keeper = world.keeper();
    world.upstream.close();
    {
        let caller = keeper.current();
        tokio::pin!(caller);
        assert!(futures_util::poll!(&mut caller).is_pending());
    }
    while world.upstream.asked() == 0 {
        tokio::task::yield_now().await;
    }
    world.upstream.open();
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-1"
    );
    assert_eq!(world.upstream.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_refusals_of_one_token_cause_one_fetch() {
    let world = World::new();
    let keeper = world.keeper();
    let refused = keeper.current().await.expect("a token");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (keeper, generation) = (Arc::clone(&keeper), refused.generation());
        callers.spawn(async move { keeper.replace(generation).await });
    }
    while let Some(token) = callers.join_next().await {
        assert_eq!(
            token.expect("no panic").expect("a token").expose(),
            "canary-2"
        );
    }
    // One more, late, of the token that is long gone.
    let token = keeper.replace(refused.generation()).await.expect("a token");
    assert_eq!(token.expose(), "canary-2");
    assert_eq!(world.upstream.asked(), 2);
    assert_eq!(keeper.health().storms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_in_the_background_before_it_ends() {
    let world = World::new();
    let keeper = world.keeper();
    keeper.current().await.expect("a token");
    assert_eq!(keeper.seconds_left(), 1000);
    sleep(LIFE.mul_f64(0.79)).await;
    assert_eq!(world.upstream.asked(), 1, "not before 80 % of its life");
    sleep(LIFE.mul_f64(0.12)).await;
    assert_eq!(
        world.upstream.asked(),
        2,
        "at 90 % of its life at the latest, though nobody asked"
    );
    let token = keeper.current();
    tokio::pin!(token);
    let std::task::Poll::Ready(token) = futures_util::poll!(token) else {
        panic!("nobody waits for a refresh that was made ahead")
    };
    assert_eq!(token.expect("a token").expose(), "canary-2");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_is_noticed_by_the_next_caller() {
    // The machine slept: timers did not run, the monotonic clock did.
    let world = World::new();
    let clock = Arc::new(crate::clock::ManualClock::new(Timestamp::from_seconds(0)));
    let keeper = TokenKeeper::new(
        "acme-us",
        world.upstream.clone(),
        None,
        world.lock.clone(),
        TokenKey::parse(&"07".repeat(32).into()).expect("long enough"),
        clock.clone(),
        TokenOptions::default(),
    );
    keeper.current().await.expect("a token");
    clock.advance(LIFE);
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-2"
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_endpoint_down_a_token_serves_to_its_real_end() {
    let world = World::new();
    let keeper = world.keeper();
    keeper.current().await.expect("a token");
    world.upstream.down();
    sleep(Duration::from_secs(999)).await;
    assert!(
        world.upstream.asked() > 2,
        "refreshing is tried all the while"
    );
    assert_eq!(
        keeper.current().await.expect("still alive").expose(),
        "canary-1"
    );
    assert!(keeper.is_hopeful());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(keeper.current().await.err(), Some(unreachable_endpoint()));
    assert_eq!(keeper.seconds_left(), 0);

    world.upstream.set(Endpoint::Up);
    sleep(TokenOptions::default().pause_max).await;
    assert!(
        keeper.seconds_left() >= 995,
        "it recovers by itself, within the longest pause"
    );
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-2"
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_endpoint_down_and_no_token_callers_are_told_and_the_endpoint_is_spared() {
    let world = World::new();
    let keeper = world.keeper();
    world.upstream.down();
    for _ in 0..200 {
        assert_eq!(keeper.current().await.err(), Some(unreachable_endpoint()));
    }
    assert_eq!(world.upstream.asked(), 1);
    assert!(!keeper.is_hopeful());
    let asked_until = Instant::now() + Duration::from_mins(1);
    while Instant::now() < asked_until {
        assert!(keeper.current().await.is_err());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        world.upstream.asked() < 40,
        "asked {} times in a minute",
        world.upstream.asked()
    );
    world.upstream.set(Endpoint::Up);
    sleep(TokenOptions::default().pause_max).await;
    assert!(keeper.is_hopeful());
    keeper.current().await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_not_repeated_often() {
    let world = World::new();
    let keeper = world.keeper();
    let refusal = TokenError::Refused {
        detail: "400".to_owned(),
    };
    world.upstream.set(Endpoint::Fails(refusal.clone()));
    for _ in 0..60 {
        assert_eq!(keeper.current().await.err(), Some(refusal.clone()));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_served_again_though_the_endpoint_is_down() {
    let world = World::new();
    let keeper = world.keeper();
    let token = keeper.current().await.expect("a token");
    world.upstream.down();
    assert_eq!(
        keeper.replace(token.generation()).await.err(),
        Some(unreachable_endpoint())
    );
    assert_eq!(keeper.current().await.err(), Some(unreachable_endpoint()));
    assert_eq!(keeper.seconds_left(), 0);
    world.upstream.set(Endpoint::Up);
    sleep(TokenOptions::default().pause_max).await;
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_third_refusal_within_a_minute_stops_the_fetching() {
    let world = World::new();
    let keeper = world.keeper();
    let mut token = keeper.current().await.expect("a token");
    for _ in 0..2 {
        sleep(Duration::from_secs(10)).await;
        token = keeper
            .replace(token.generation())
            .await
            .expect("the first two are ordinary");
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.upstream.asked(), 3);
    for _ in 0..200 {
        let stopped = keeper.replace(token.generation()).await.err();
        let Some(TokenError::RefreshStorm { retry_after }) = stopped else {
            panic!("{stopped:?}")
        };
        assert_eq!(
            retry_after,
            Duration::from_secs(40),
            "a minute after the first of the two"
        );
    }
    assert!(matches!(
        keeper.current().await,
        Err(TokenError::RefreshStorm { .. })
    ));
    assert_eq!(world.upstream.asked(), 3, "nothing was fetched");
    let health = keeper.health();
    assert!(health.storming);
    assert_eq!(health.storms, 1, "one alert, not one a caller");

    sleep(Duration::from_secs(46)).await;
    assert_eq!(
        keeper.current().await.expect("tried again").expose(),
        "canary-4"
    );
    assert!(!keeper.health().storming);
}

#[tokio::test(start_paused = true)]
async fn refusals_apart_and_refreshes_in_time_are_no_storm() {
    let world = World::new();
    *world.upstream.life.lock().expect("no panic holds it") = Duration::from_secs(20);
    let keeper = world.keeper();
    for _ in 0..20 {
        let token = keeper.current().await.expect("a token");
        keeper
            .replace(token.generation())
            .await
            .expect("two a minute are ordinary");
        sleep(Duration::from_secs(31)).await;
    }
    assert!(
        world.upstream.asked() > 40,
        "many refreshes, few of them forced"
    );
    assert_eq!(keeper.health().storms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stepped_wall_clock_does_not_move_the_end_of_a_fetched_token() {
    let world = World::new();
    let keeper = world.keeper();
    keeper.current().await.expect("a token");
    world.clock.advance_wall(LIFE * 2);
    assert_eq!(keeper.seconds_left(), 1000);
    assert_eq!(
        keeper.current().await.expect("a token").expose(),
        "canary-1"
    );
    assert_eq!(world.upstream.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_and_a_panic_end_the_flight() {
    let world = World::new();
    let keeper = world.keeper();
    world.upstream.set(Endpoint::Silent);
    let limit = TokenOptions::default().fetch_timeout + Duration::from_secs(1);
    let answer = timeout(limit, keeper.current()).await.expect("bounded");
    assert!(
        matches!(answer, Err(TokenError::Unreachable { .. })),
        "{answer:?}"
    );

    world.upstream.set(Endpoint::Panics);
    sleep(TokenOptions::default().pause_max).await;
    let answer = keeper.current().await;
    assert!(
        matches!(answer, Err(TokenError::Unusable { .. })),
        "{answer:?}"
    );

    world.upstream.set(Endpoint::Up);
    sleep(TokenOptions::default().pause_max).await;
    // The lock of the fetch that panicked was given back with its task.
    let answer = timeout(Duration::from_secs(1), keeper.current())
        .await
        .expect("at once");
    assert_eq!(answer.expect("a token").expose(), "canary-1");
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_life_is_not_understood() {
    let world = World::new();
    *world.upstream.life.lock().expect("no panic holds it") = Duration::ZERO;
    let answer = world.keeper().current().await;
    assert!(
        matches!(answer, Err(TokenError::Unusable { .. })),
        "{answer:?}"
    );
    assert!(world.ledger.row().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_shows_nowhere() {
    let world = World::new();
    let keeper = world.keeper();
    let token = keeper.current().await.expect("a token");
    assert_eq!(
        token.expose(),
        "canary-1",
        "the search below looks for this"
    );
    let row = world.ledger.row().expect("a row");
    assert!(!row.ciphertext.windows(6).any(|window| window == b"canary"));
    for text in [
        format!("{token:?}"),
        format!("{keeper:?}"),
        format!("{row:?}"),
    ] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_keeper_leaves_no_task_behind() {
    let world = World::new();
    let keeper = world.keeper();
    keeper.current().await.expect("a token");
    drop(keeper);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&world.upstream), 1);
    sleep(LIFE).await;
    assert_eq!(world.upstream.asked(), 1);
}
