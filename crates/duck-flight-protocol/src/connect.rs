//! The way a client reaches a server.

use std::time::Duration;

use arrow_flight::FlightClient;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use crate::{Endings, Socket};

/// The port a server listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8815;

/// The server a client connects to unless told otherwise.
pub const DEFAULT_SERVER: &str = "grpc://127.0.0.1:8815";

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// When a client takes its server for gone. A server answers however busy it is, and however slow its client reads.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(10),
    timeout: Duration::from_secs(20),
};

/// How a client finds out that its server has gone without a word: its machine has lost its power, or the network is cut.
#[derive(Debug, Clone, Copy)]
struct KeepAlive {
    /// After so long without a word from the server, the client asks whether it is there.
    interval: Duration,
    /// After so long without an answer to that, it is not.
    timeout: Duration,
}

/// How much a server may send ahead of what the client has read: per stream, and per connection.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest HTTP/2 frame a client accepts. By the default of 16 KiB a message arrives in a hundred pieces.
const FRAME_BYTES: u32 = 1 << 20;

/// The largest message a client accepts. The server sends messages near 2 MiB; a single huge value may be larger.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// `grpc://host:port`, `http://host:port` or `host:port`.
    pub server: String,
}

/// The flags with which a command-line client says where its server is.
#[cfg(feature = "cli")]
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// Where the server is: `grpc://host:port`, or just `host:port`.
    #[arg(long, value_name = "URL", env = "DUCK_FLIGHT_SERVER", default_value = DEFAULT_SERVER)]
    #[arg(value_parser = Address)]
    pub server: String,
}

/// Reads an address.
#[cfg(feature = "cli")]
#[derive(Clone)]
struct Address;

#[cfg(feature = "cli")]
impl clap::builder::TypedValueParser for Address {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        if without_user(&value.to_string_lossy()).is_some() {
            // The error of a value tells the value, and so the password.
            let kind = clap::error::ErrorKind::ValueValidation;
            let message = format!("--server: {NO_USER}");
            return Err(command.clone().error(kind, message));
        }
        let checked = |server: &str| endpoint(server).map(|_| server.to_owned());
        checked.parse_ref(command, argument, value)
    }
}

#[cfg(feature = "cli")]
impl From<ConnectArgs> for ConnectOptions {
    fn from(args: ConnectArgs) -> Self {
        Self {
            server: args.server,
        }
    }
}

impl ConnectOptions {
    /// Connects, and answers with a client that is ready for calls. Clone its channel
    /// ([`FlightClient::inner`]) to share the connection.
    ///
    /// A server that takes the connection and then says nothing, now or later, is found out within half a minute: all calls
    /// on the connection fail then. [`error_message`] says why.
    ///
    /// # Errors
    /// When the address is malformed or nobody takes the connection within ten seconds; the message names the address.
    pub async fn connect(&self) -> Result<FlightClient, ConnectError> {
        self.connect_counted(&Endings::default()).await
    }

    /// As [`ConnectOptions::connect`]. The client makes a new connection where it finds that its own has ended; `endings`
    /// tell that it did.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_counted(&self, endings: &Endings) -> Result<FlightClient, ConnectError> {
        self.connect_with(endings.clone(), KEEP_ALIVE).await
    }

    async fn connect_with(
        &self,
        endings: Endings,
        keep_alive: KeepAlive,
    ) -> Result<FlightClient, ConnectError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = connector.map_response(move |stream| {
            let socket = Socket::patient(TokioIo::into_inner(stream));
            TokioIo::new(socket.counted(&endings))
        });
        let endpoint = endpoint(&self.server).map_err(|reason| ConnectError::Address {
            server: without_user(&self.server)
                .unwrap_or(&self.server)
                .to_owned(),
            reason,
        })?;
        let channel = endpoint
            .http2_keep_alive_interval(keep_alive.interval)
            .keep_alive_timeout(keep_alive.timeout)
            // A call on a connection that was idle is not always seen in time to begin asking.
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| ConnectError::Refused {
                server: self.server.clone(),
                reason: root_cause(&error),
            })?;
        Ok(flight_client(channel))
    }
}

/// What is wrong with an address that names a user.
const NO_USER: &str = "there are no users and passwords yet: leave out what stands before the `@`";

/// What of an address can be shown that has a user, and perhaps a password; `None` where it has none.
fn without_user(server: &str) -> Option<&str> {
    server.rsplit_once('@').map(|(_, host)| host)
}

/// Where an address leads, or what is wrong with it.
fn endpoint(server: &str) -> Result<Endpoint, String> {
    if without_user(server).is_some() {
        return Err(NO_USER.into());
    }
    let address = match server.split_once("://") {
        None => server,
        Some((scheme, address)) => match scheme.to_ascii_lowercase().as_str() {
            "grpc" | "grpc+tcp" | "http" => address,
            "grpc+tls" | "grpcs" | "https" => {
                return Err("there is no TLS yet, use grpc://host:port".into());
            }
            _ => return Err(format!("unknown scheme `{scheme}`, use grpc://host:port")),
        },
    };
    if address.is_empty() {
        return Err("it is empty, use grpc://host:port".into());
    }
    if address.starts_with(':') && !address.starts_with("::") {
        return Err(format!("the host is missing, such as 127.0.0.1{address}"));
    }
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let uri = endpoint.uri();
    if uri.port().is_none() {
        let is_missing = uri.authority().map(|it| it.as_str()) == uri.host();
        return Err(match is_missing {
            true => format!("the port is missing, usually {DEFAULT_PORT}"),
            false => format!("the port is a number up to {}", u16::MAX),
        });
    }
    Ok(endpoint
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// What went wrong at the bottom: the layers above repeat it, or only name themselves.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn flight_client(channel: Channel) -> FlightClient {
    FlightClient::new_from_inner(
        FlightServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
    )
}

/// How the transport words it that a server has not answered [`KeepAlive`]'s question.
const NO_ANSWER: &str = "keep-alive timed out";

/// Why a call failed whose server has not answered for too long, for people; `None` for other failures.
fn silence(status: &Status) -> Option<&'static str> {
    let first = std::error::Error::source(status);
    let mut causes = std::iter::successors(first, |cause| cause.source());
    causes.any(|cause| cause.to_string() == NO_ANSWER).then_some(
        "the server does not answer: its process stands still, or its machine or the network is gone",
    )
}

/// How the transport begins what it says of bytes that are not its protocol's.
const NOT_HTTP2: &str = "connection error detected: ";

/// What a call's error says to a person: the server's own message where there is one, and otherwise what became of the
/// connection to that server.
pub fn error_message(error: &FlightError, server: &str) -> String {
    let FlightError::Tonic(status) = error else {
        return error.to_string();
    };
    if let Some(silence) = silence(status) {
        return format!("{silence} ({server})");
    }
    // tonic gives a source to what its transport reports, and none to what a server answered.
    if let Some(source) = std::error::Error::source(&**status) {
        let cause = root_cause(source);
        return match cause.starts_with(NOT_HTTP2) {
            true => format!(
                "what answers at {server} is no Flight server; is that the port of duck-flight-server? {cause}"
            ),
            false => format!(
                "the connection to {server} broke before the answer was complete; is duck-flight-server still running \
                 there? {cause}"
            ),
        };
    }
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

/// Why a client has no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be read.
    #[error("bad server address `{server}`: {reason}")]
    Address {
        /// The address as given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no server answers at {server}; is duck-flight-server running there? {reason}")]
    Refused {
        /// The address as given.
        server: String,
        /// What the network says.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use arrow_flight::Ticket;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn uri(server: &str) -> Result<String, String> {
        endpoint(server).map(|endpoint| endpoint.uri().to_string())
    }

    #[test]
    fn an_address_is_read_with_and_without_its_scheme() {
        for server in [
            "grpc://h:1",
            "GRPC://h:1",
            "Grpc+TCP://h:1",
            "http://h:1",
            "h:1",
        ] {
            assert_eq!(uri(server).unwrap(), "http://h:1/");
        }
    }

    #[tokio::test]
    async fn a_call_to_a_server_that_says_nothing_ends_and_says_so() {
        // The system takes connections for a listener that accepts none.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ConnectOptions {
            server: listener.local_addr().unwrap().to_string(),
        };
        let keep_alive = KeepAlive {
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(50),
        };
        let mut client = options
            .connect_with(Endings::default(), keep_alive)
            .await
            .unwrap();
        let call = client.do_get(Ticket::new("SELECT 1"));
        let answer = tokio::time::timeout(Duration::from_secs(10), call).await;
        let error = answer.expect("an end").map(drop).unwrap_err();
        let message = error_message(&error, &options.server);
        assert!(message.contains("does not answer"), "{message} {error:?}");
        assert!(message.contains(&options.server), "{message} {error:?}");
    }

    /// What a call comes to at a server that answers so to its beginning, and with no answer breaks the connection.
    async fn said_of(answer: &'static [u8]) -> (String, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let answering = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            // More than a client sends before its call.
            connection.read_exact(&mut [0; 100]).await.unwrap();
            connection.write_all(answer).await.unwrap();
            (!answer.is_empty()).then_some(connection)
        });
        let options = ConnectOptions {
            server: server.clone(),
        };
        let mut client = options.connect().await.unwrap();
        let call = client.do_get(Ticket::new("SELECT 1")).await;
        drop(answering.await.unwrap());
        let message = error_message(&call.map(drop).unwrap_err(), &server);
        (server, message)
    }

    #[tokio::test]
    async fn an_error_of_the_connection_names_the_server() {
        let (server, message) = said_of(b"").await;
        let expected = format!("the connection to {server} broke");
        assert!(message.starts_with(&expected), "{message}");
        let (server, message) = said_of(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let expected = format!("what answers at {server} is no Flight server");
        assert!(message.starts_with(&expected), "{message}");
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        assert!(
            uri("ftp://h:1")
                .unwrap_err()
                .contains("unknown scheme `ftp`")
        );
        assert!(uri("grpc+tls://h:1").unwrap_err().contains("no TLS"));
        assert!(
            uri("localhost")
                .unwrap_err()
                .contains("the port is missing")
        );
        assert!(uri("localhost:99999").unwrap_err().contains("up to 65535"));
        assert!(uri("").unwrap_err().contains("it is empty"));
        for server in [":8815", "grpc://:8815"] {
            let error = uri(server).unwrap_err();
            assert!(error.ends_with("such as 127.0.0.1:8815"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_address_with_a_password_is_refused_and_not_told() {
        for server in ["me:secret@h:1", "grpc://me:secret@h:1"] {
            let options = ConnectOptions {
                server: server.to_owned(),
            };
            let error = options.connect().await.map(drop).unwrap_err().to_string();
            assert!(
                error.contains("`h:1`") && error.contains(NO_USER),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
