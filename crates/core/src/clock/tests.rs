//! Instants and clocks: what is shown, what is stored, and which clock notices what.

use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_millis(1_795_183_740_123);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn instants_are_shown_to_the_millisecond_and_stored_to_the_microsecond() {
    let instant = Timestamp::parse("2026-11-20T14:09:00.123456789Z").expect("an instant");
    assert_eq!(instant.micros(), 1_795_183_740_123_456);
    assert_eq!(instant.rfc3339(), "2026-11-20T14:09:00.123Z");
    assert_eq!(START.to_string(), "2026-11-20T14:09:00.123Z");
    let stored = serde_json::to_string(&[instant, START]).expect("serialises");
    assert_eq!(
        stored,
        r#"["2026-11-20T14:09:00.123456Z","2026-11-20T14:09:00.123Z"]"#
    );
    assert_eq!(
        serde_json::from_str::<[Timestamp; 2]>(&stored).expect("reads"),
        [instant, START]
    );
}

#[test]
fn offsets_are_read_and_other_forms_are_not() {
    let utc = Timestamp::parse("2026-11-20T14:09:00Z");
    assert_eq!(Timestamp::parse("2026-11-20T11:09:00-03:00"), utc);
    for refused in [
        "",
        "2026-11-20",
        "2026-11-20T14:09:00",
        "2026-13-20T14:09:00Z",
        "0000-01-01T00:00:00Z",
    ] {
        assert_eq!(Timestamp::parse(refused), Err(TimestampError), "{refused}");
    }
}

#[test]
fn arithmetic_stays_within_what_can_be_written() {
    assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
    assert_eq!(Timestamp::MIN - Duration::MAX, Timestamp::MIN);
    assert_eq!(
        Timestamp::from_micros(i64::MAX).rfc3339(),
        "9999-12-31T23:59:59.999Z"
    );
    assert_eq!(
        Timestamp::from_micros(i64::MIN).rfc3339(),
        "0001-01-01T00:00:00.000Z"
    );
    assert_eq!((START + SECOND).since(START), SECOND);
    assert_eq!(START.since(START + SECOND), Duration::ZERO);
    assert_eq!(
        Tick::from_origin(SECOND).since(Tick::from_origin(SECOND * 3)),
        Duration::ZERO
    );
}

#[test]
fn the_system_clock_goes_forward_and_shows_the_present() {
    let before = SystemTime::now();
    let (first, now, second) = (SystemClock.tick(), SystemClock.now(), SystemClock.tick());
    assert!(second >= first);
    // To the microsecond, so the start is rounded down as well.
    assert!(now >= Timestamp::from(before) && now <= Timestamp::from(SystemTime::now()));
}

#[test]
fn a_frozen_clock_moves_only_by_hand() {
    let clock = ManualClock::new(START);
    let origin = clock.tick();
    clock.advance(SECOND);
    assert_eq!(
        (clock.now(), clock.tick().since(origin)),
        (START + SECOND, SECOND)
    );
    clock.advance_wall(SECOND * 60);
    assert_eq!(
        (clock.now(), clock.tick().since(origin)),
        (START + SECOND * 61, SECOND)
    );
    clock.set_back_wall(SECOND * 120);
    assert_eq!(
        (clock.now(), clock.tick().since(origin)),
        (START - SECOND * 59, SECOND)
    );
}

#[test]
fn a_running_clock_is_ahead_by_what_it_was_moved() {
    let hour = SECOND * 3600;
    let clock = ManualClock::running();
    let (wall, tick) = (SystemClock.now(), SystemClock.tick());
    clock.advance(hour);
    assert!(clock.now() >= wall + hour);
    assert!(clock.tick() >= tick + hour);
    clock.set_back_wall(hour * 2);
    assert!(clock.now() < wall);
    assert!(clock.tick() >= tick + hour);
}

#[tokio::test(start_paused = true)]
async fn a_simulated_clock_follows_paused_time() {
    let clock = SimulatedClock::new(START);
    tokio::time::sleep(SECOND * 90).await;
    let passed = clock.tick().since_origin();
    assert!(passed >= SECOND * 90 && passed < SECOND * 91);
    assert_eq!(clock.now(), START + passed);
    clock.set_back_wall(SECOND * 600);
    assert_eq!(clock.now(), START + passed - SECOND * 600);
    clock.advance_wall(SECOND * 600);
    assert_eq!(
        (clock.now(), clock.tick().since_origin()),
        (START + passed, passed)
    );
}

proptest! {
    #[test]
    fn what_is_stored_is_read_back(micros in Timestamp::MIN.micros()..=Timestamp::MAX.micros()) {
        let instant = Timestamp::from_micros(micros);
        let stored = serde_json::to_string(&instant).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&stored).expect("reads"), instant);
        prop_assert_eq!(Timestamp::from(instant.to_offset_date_time()), instant);
        prop_assert_eq!(Timestamp::from_millis(instant.millis()).rfc3339(), instant.rfc3339());
    }
}
