//! What the keeper promises, under a paused clock.
