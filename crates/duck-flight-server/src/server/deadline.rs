//! The time that a client gives a call, in its header `grpc-timeout`.

use std::time::Duration;

use tonic::Status;

/// tonic watches the time too, but calls its end CANCELLED: we are this much earlier.
const AHEAD: Duration = Duration::from_millis(1);

/// How long the client waits for its answer.
pub(super) fn of(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number = is_number.then(|| digits.parse::<u64>().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The answer to a call, where it comes in time.
pub(super) async fn within<B: Default, E>(
    time: Duration,
    call: impl Future<Output = Result<http::Response<B>, E>>,
) -> Result<http::Response<B>, E> {
    match tokio::time::timeout(time.saturating_sub(AHEAD), call).await {
        Ok(answer) => answer,
        Err(_) => Ok(
            Status::deadline_exceeded("the call took longer than its client gave it").into_http(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Duration> {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        of(&headers)
    }

    #[test]
    fn the_header_is_read_as_grpc_writes_it() {
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("250u"), Some(Duration::from_micros(250)));
        for malformed in ["", "S", "10", "-1S", "100000000S", "1s", "1é"] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }

    #[tokio::test]
    async fn a_call_that_takes_longer_than_it_was_given_says_so() {
        let never = std::future::pending::<Result<http::Response<()>, ()>>();
        let answer = within(Duration::from_millis(5), never).await.unwrap();
        let code = answer.headers().get(Status::GRPC_STATUS).unwrap();
        assert_eq!(code, "4", "DEADLINE_EXCEEDED");
        let at_once = async { Ok::<_, ()>(http::Response::new(42)) };
        let answer = within(Duration::ZERO, at_once).await.unwrap();
        assert_eq!(*answer.body(), 42);
    }
}
