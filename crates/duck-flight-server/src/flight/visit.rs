//! A request's session, as it stands in the request's headers and in the answer's.
//!
//! A client shows a bearer token that `Handshake` gave it, or a cookie. A cookie says whether the server keeps
//! anything for it: `n-ID` nothing yet, `s-ID` something. So a session that is gone with all it held is an error,
//! and one that held nothing is simply begun anew.

use arrow_flight::HandshakeResponse;
use duck_flight_protocol::SESSION_COOKIE;
use futures::{StreamExt, stream};
use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response};

use super::Answers;
use crate::error::Result;
use crate::session::{Caller, Handle, Peer, Proof, Session, Sessions};

/// What our tokens begin with; others are somebody else's business.
const TOKEN_PREFIX: &str = "duck-flight-";

const FRESH: &str = "n-";
const KEPT: &str = "s-";

/// A request's caller, and what the answer must tell them of their session.
pub(super) struct Visit {
    pub(super) caller: Caller,
    proof: Option<Proof>,
    /// A session that this request has opened.
    opened: Option<Session>,
}

impl Visit {
    pub(super) fn new<T>(sessions: &Sessions, request: &Request<T>) -> Result<Self> {
        let metadata = request.metadata();
        let proof = token(metadata).or_else(|| cookie(metadata));
        let peer = request.extensions().get::<Peer>().cloned();
        Ok(Self {
            caller: sessions.caller(proof, peer)?,
            proof,
            opened: None,
        })
    }

    /// The caller's session, opened where there is none.
    pub(super) fn session(&mut self, sessions: &Sessions) -> Result<Session> {
        if let Some(session) = self.caller.session() {
            return Ok(session.clone());
        }
        let session = sessions.open()?;
        self.opened = Some(session.clone());
        self.caller = self.caller.in_session(Some(session.clone()));
        Ok(session)
    }

    /// Says that the session has ended.
    pub(super) fn forget(&mut self) {
        self.caller = self.caller.in_session(None);
        self.proof = None;
    }

    /// Wraps an answer, with a cookie where the client should have another one than it has.
    pub(super) fn answer<T>(&self, sessions: &Sessions, body: T) -> Response<T> {
        let mut response = Response::new(body);
        let cookie = match (self.proof, self.caller.session()) {
            (_, Some(session)) if self.opened.is_some() => Some(format!("{KEPT}{}", session.id())),
            (None, _) => {
                sessions.offer(&self.caller);
                Some(format!("{FRESH}{}", Handle::new()))
            }
            (Some(Proof::Fresh(id)), Some(session)) if session.is_kept() => {
                Some(format!("{KEPT}{id}"))
            }
            _ => None,
        };
        let header = cookie.map(|cookie| format!("{SESSION_COOKIE}={cookie}; Path=/"));
        if let Some(header) = header.and_then(|header| MetadataValue::try_from(header).ok()) {
            response.metadata_mut().insert(SET_COOKIE.as_str(), header);
        }
        response
    }
}

fn token(metadata: &MetadataMap) -> Option<Proof> {
    let value = metadata.get(AUTHORIZATION.as_str())?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let id = token.trim().strip_prefix(TOKEN_PREFIX)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer
        .then(|| Handle::from_text(id).map(Proof::Kept))
        .flatten()
}

fn cookie(metadata: &MetadataMap) -> Option<Proof> {
    let headers = metadata.get_all(COOKIE.as_str());
    headers
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, _)| *name == SESSION_COOKIE)
        .find_map(|(_, value)| {
            let value = value.trim_matches('"');
            let kept = value.strip_prefix(KEPT).and_then(Handle::from_text);
            let fresh = || value.strip_prefix(FRESH).and_then(Handle::from_text);
            kept.map(Proof::Kept).or_else(|| fresh().map(Proof::Fresh))
        })
}

/// Opens a session, whose token stands in the answer and, where drivers look for it, in the answer's header.
pub(super) fn handshake(sessions: &Sessions) -> Result<Response<Answers<HandshakeResponse>>> {
    let token = format!("{TOKEN_PREFIX}{}", sessions.open()?.id());
    let header = MetadataValue::try_from(format!("Bearer {token}"));
    let answer = HandshakeResponse {
        protocol_version: 0,
        payload: token.into(),
    };
    let mut response = Response::new(stream::once(async { Ok(answer) }).boxed());
    if let Ok(header) = header {
        let headers = response.metadata_mut();
        headers.insert(AUTHORIZATION.as_str(), header);
    }
    Ok(response)
}
