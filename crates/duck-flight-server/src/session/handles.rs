//! What clients hold by a handle: each thing expires when nobody asks for it for a while.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// A name that cannot be guessed: whoever knows it may use what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle(u128);

impl Handle {
    /// One that nobody had before.
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// The bytes that stand for it on the wire.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    /// Reads the bytes of [`Handle::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// Reads what its `Display` writes.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Things by their handles.
pub(crate) struct Handles<T> {
    what: &'static str,
    limit: usize,
    timeout: Duration,
    entries: Mutex<HashMap<Handle, Entry<T>>>,
}

struct Entry<T> {
    value: T,
    last_used: Instant,
    /// Whether anybody has asked for it.
    was_used: bool,
}

impl<T> Entry<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            last_used: Instant::now(),
            was_used: false,
        }
    }

    fn used(&mut self) -> &T {
        self.last_used = Instant::now();
        self.was_used = true;
        &self.value
    }

    /// Whether it has waited longer than that. In use, it starts to wait anew.
    fn has_waited(&mut self, patience: Duration, is_in_use: impl Fn(&T) -> bool) -> bool {
        if is_in_use(&self.value) {
            self.last_used = Instant::now();
            return false;
        }
        self.last_used.elapsed() > patience
    }
}

impl<T: Clone> Handles<T> {
    /// At most `limit` things, each gone once `timeout` has passed without a use. `what` names one in errors.
    pub(crate) fn new(what: &'static str, limit: usize, timeout: Duration) -> Self {
        Self {
            what,
            limit,
            timeout,
            entries: Mutex::default(),
        }
    }

    pub(crate) fn insert(&self, handle: Handle, value: T) -> Result<()> {
        self.replace(handle, value, |_| None::<()>).map(|_| ())
    }

    /// Inserts a thing, be there as many as there may.
    pub(super) fn insert_at_any_rate(&self, handle: Handle, value: T) {
        self.entries.lock().insert(handle, Entry::new(value));
    }

    /// Fails where there are as many as there may be.
    pub(super) fn check_room(&self) -> Result<()> {
        match self.len() < self.limit {
            true => Ok(()),
            false => Err(self.too_many()),
        }
    }

    fn too_many(&self) -> Error {
        Error::TooManyHandles {
            what: self.what,
            limit: self.limit,
        }
    }

    /// Inserts a thing that takes the place of another one at the limit: of one that `spare` ranks. The lowest rank goes
    /// first, of that what nobody ever asked for, of that what has waited the longest.
    pub(super) fn replace<R: Ord>(
        &self,
        handle: Handle,
        value: T,
        spare: impl Fn(&T) -> Option<R>,
    ) -> Result<Option<(Handle, T)>> {
        let mut entries = self.entries.lock();
        let replaced = self.make_room(&mut entries, spare)?;
        entries.insert(handle, Entry::new(value));
        Ok(replaced)
    }

    /// The thing of a handle, which is used now. Where there is none it is made, and inserted as by [`Handles::replace`].
    pub(super) fn get_or_insert_with<R: Ord>(
        &self,
        handle: Handle,
        make: impl FnOnce() -> T,
        spare: impl Fn(&T) -> Option<R>,
    ) -> Result<T> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&handle) {
            return Ok(entry.used().clone());
        }
        self.make_room(&mut entries, spare)?;
        let value = make();
        entries.insert(handle, Entry::new(value.clone()));
        Ok(value)
    }

    /// At the limit, takes out what `spare` ranks the lowest.
    fn make_room<R: Ord>(
        &self,
        entries: &mut HashMap<Handle, Entry<T>>,
        spare: impl Fn(&T) -> Option<R>,
    ) -> Result<Option<(Handle, T)>> {
        if entries.len() < self.limit {
            return Ok(None);
        }
        let ranked = entries.iter().filter_map(|(handle, entry)| {
            let rank = spare(&entry.value)?;
            Some(((rank, entry.was_used, entry.last_used), *handle))
        });
        let least = ranked.min_by(|(one, _), (other, _)| one.cmp(other));
        let (_, least) = least.ok_or_else(|| self.too_many())?;
        Ok(entries.remove(&least).map(|entry| (least, entry.value)))
    }

    /// The thing of a handle, which is used now.
    pub(crate) fn get(&self, handle: Handle) -> Option<T> {
        let mut entries = self.entries.lock();
        entries.get_mut(&handle).map(|entry| entry.used().clone())
    }

    /// The thing that a client names by these bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> Result<(Handle, T)> {
        let handle = Handle::from_bytes(bytes);
        let found = handle.and_then(|handle| Some((handle, self.get(handle)?)));
        found.ok_or(Error::UnknownHandle { what: self.what })
    }

    pub(crate) fn remove(&self, handle: Handle) -> Option<T> {
        let entry = self.entries.lock().remove(&handle)?;
        Some(entry.value)
    }

    /// What matches, each used now.
    pub(super) fn matching(&self, matches: impl Fn(&T) -> bool) -> Vec<(Handle, T)> {
        let mut entries = self.entries.lock();
        let found = entries
            .iter_mut()
            .filter(|(_, entry)| matches(&entry.value))
            .map(|(handle, entry)| (*handle, entry.used().clone()));
        found.collect()
    }

    /// Takes out what matches.
    pub(crate) fn remove_if(&self, matches: impl Fn(&T) -> bool) -> Vec<(Handle, T)> {
        let mut entries = self.entries.lock();
        let removed = entries.extract_if(|_, entry| matches(&entry.value));
        let removed = removed.map(|(handle, entry)| (handle, entry.value));
        removed.collect()
    }

    /// All things. None of them is used now.
    pub(super) fn all(&self) -> Vec<T> {
        let entries = self.entries.lock();
        entries.values().map(|entry| entry.value.clone()).collect()
    }

    /// Takes out what matches and has waited the longest, up to `count`.
    pub(super) fn remove_oldest(&self, count: usize, matches: impl Fn(&T) -> bool) -> Vec<T> {
        let mut entries = self.entries.lock();
        let matching = entries.iter().filter(|(_, entry)| matches(&entry.value));
        let mut found: Vec<_> = matching
            .map(|(handle, entry)| (entry.last_used, *handle))
            .collect();
        found.sort_unstable_by_key(|(last_used, _)| *last_used);
        found.truncate(count);
        let removed = found
            .iter()
            .filter_map(|(_, handle)| entries.remove(handle));
        removed.map(|entry| entry.value).collect()
    }

    /// Takes out what has expired; what is in use starts to wait anew.
    pub(crate) fn expire(&self, is_in_use: impl Fn(&T) -> bool) -> Vec<(Handle, T)> {
        let mut entries = self.entries.lock();
        let timeout = self.timeout;
        let expired = entries.extract_if(|_, entry| entry.has_waited(timeout, &is_in_use));
        let expired = expired.map(|(handle, entry)| (handle, entry.value));
        expired.collect()
    }

    /// What has waited longer than that, which stays; what is in use starts to wait anew.
    pub(super) fn expired(
        &self,
        patience: Duration,
        is_in_use: impl Fn(&T) -> bool,
    ) -> Vec<(Handle, T)> {
        let mut entries = self.entries.lock();
        let expired = entries.iter_mut().filter_map(|(handle, entry)| {
            let has_expired = entry.has_waited(patience, &is_in_use);
            has_expired.then(|| (*handle, entry.value.clone()))
        });
        expired.collect()
    }

    /// Whether it is there, and has waited longer than that.
    pub(super) fn is_expired(&self, handle: Handle, patience: Duration) -> bool {
        let entries = self.entries.lock();
        let entry = entries.get(&handle);
        entry.is_some_and(|entry| entry.last_used.elapsed() > patience)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }
}
