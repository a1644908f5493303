//! How long to wait before sending again.

use std::time::Duration;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The wait after the `attempt`-th failed attempt, the first being 1: twice as long each time, up to 5 s, of
/// which a random half is left away, so that loaders that failed together do not come back together.
pub(crate) fn delay(attempt: u32) -> Duration {
    jittered(attempt, rand::random())
}

/// `random` is at least 0 and less than 1.
fn jittered(attempt: u32, random: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let full = FIRST_DELAY.saturating_mul(1 << doublings).min(MAX_DELAY);
    full.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let longest: Vec<_> = [1, 2, 3, 7, 1000]
            .map(|attempt| jittered(attempt, 1.0).as_millis())
            .into();
        assert_eq!(longest, [100, 200, 400, 5000, 5000]);
    }

    #[test]
    fn waits_are_at_least_half_as_long() {
        assert_eq!(jittered(2, 0.0), Duration::from_millis(100));
    }
}
