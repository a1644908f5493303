//! A connection that keeps the cookies it is given, and shows them with every request.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::{COOKIE, SET_COOKIE};
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::{Channel, Error};

/// A channel with cookies. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct CookieChannel {
    channel: Channel,
    cookies: Arc<Mutex<Cookies>>,
}

/// Cookies by name.
type Cookies = BTreeMap<String, String>;

impl CookieChannel {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            cookies: Arc::default(),
        }
    }
}

impl Service<Request<Body>> for CookieChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shown = shown(&self.cookies.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(cookies) = shown {
            request.headers_mut().insert(COOKIE, cookies);
        }
        let response = self.channel.call(request);
        let cookies = self.cookies.clone();
        Box::pin(async move {
            let response = response.await?;
            let mut cookies = cookies.lock().unwrap_or_else(PoisonError::into_inner);
            for header in response.headers().get_all(SET_COOKIE) {
                cookies.extend(given(header));
            }
            Ok(response)
        })
    }
}

/// The header that shows cookies; `None` where there are none.
fn shown(cookies: &Cookies) -> Option<HeaderValue> {
    let pairs: Vec<_> = cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let is_any = !pairs.is_empty();
    is_any
        .then(|| HeaderValue::try_from(pairs.join("; ")).ok())
        .flatten()
}

/// The name and the value of a cookie that is given.
fn given(header: &HeaderValue) -> Option<(String, String)> {
    // Attributes follow, for browsers.
    let cookie = header.to_str().ok()?.split(';').next()?;
    let (name, value) = cookie.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}
