//! The messages of one or several sites in one order, newest first, read from
//! the table as far as they are needed.

use std::vec::IntoIter;

use futures_util::future::try_join_all;
use logstream_core::messages::RECENT_PAGE;
use logstream_core::{Error, Level, Message, Messages, SortKey};

/// Which messages are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The lowest key.
    pub low: SortKey,
    /// The highest key; `None` if there is no key that is low enough.
    pub high: Option<SortKey>,
    /// The lowest level.
    pub level: Level,
}

/// The messages that are wanted, as far as they are read and not taken.
pub struct History<'a> {
    messages: &'a Messages,
    wanted: Wanted,
    /// The most rows of a site in the next read.
    rows: usize,
    sites: Vec<Site<'a>>,
}

/// What comes next, going down the keys.
#[derive(Debug)]
pub enum Next {
    /// Messages with this key: one, or one each of several sites.
    Messages(SortKey),
    /// Rows that are not read, whose highest key may be this one.
    Unread(SortKey),
    /// Nothing.
    End,
}

impl<'a> History<'a> {
    /// Nothing is read yet. `rows` is the most rows that the answer needs of a
    /// site.
    pub fn new(messages: &'a Messages, sites: Vec<&'a str>, wanted: Wanted, rows: usize) -> Self {
        let sites = sites.into_iter().map(|name| Site {
            name,
            read: Vec::new().into_iter(),
            unread: wanted.high,
        });
        Self {
            messages,
            wanted,
            rows,
            sites: sites.collect(),
        }
    }

    /// What comes next.
    pub fn next(&self) -> Next {
        let gap = self.sites.iter().filter_map(Site::gap).max();
        match self.newest() {
            // In the gap there may be more messages with the same key.
            Some(key) if Some(key) > gap => Next::Messages(key),
            _ => gap.map_or(Next::End, Next::Unread),
        }
    }

    /// Takes the messages with a key, which is that of [`Next::Messages`], in
    /// the order of the sites.
    pub fn take(&mut self, key: SortKey) -> impl Iterator<Item = Message> {
        self.sites.iter_mut().filter_map(move |site| {
            let is_there = site.newest() == Some(key);
            is_there.then(|| site.read.next()).flatten()
        })
    }

    /// Reads one page of each site without which it cannot be said what comes
    /// next, side by side. Returns how many.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a query failed three times.
    pub async fn read(&mut self) -> Result<usize, Error> {
        let (messages, wanted, newest) = (self.messages, self.wanted, self.newest());
        let sites = self.sites.iter_mut();
        let sites: Vec<_> = sites
            .filter(|site| site.gap().is_some_and(|gap| newest <= Some(gap)))
            .collect();
        let pages = sites.len();
        // Together no more rows than in a page of one site, for the memory.
        let rows = self.rows.min(RECENT_PAGE / pages.max(1));
        let reads = sites
            .into_iter()
            .map(|site| site.read(messages, wanted, rows));
        try_join_all(reads).await?;
        // Any number of rows that are expired or below the level may come
        // before the next message. Large pages pass them with the fewest calls.
        self.rows = usize::MAX;
        Ok(pages)
    }

    fn newest(&self) -> Option<SortKey> {
        self.sites.iter().filter_map(Site::newest).max()
    }
}

struct Site<'a> {
    name: &'a str,
    /// Read and not taken, newest first.
    read: IntoIter<Message>,
    /// The highest key below them; `None` if all is read.
    unread: Option<SortKey>,
}

impl Site<'_> {
    /// The key of its next message.
    fn newest(&self) -> Option<SortKey> {
        self.read.as_slice().first().map(|message| message.key)
    }

    /// Up to which key its next message is not known.
    fn gap(&self) -> Option<SortKey> {
        self.unread.filter(|_| self.read.as_slice().is_empty())
    }

    async fn read(
        &mut self,
        messages: &Messages,
        Wanted { low, level, .. }: Wanted,
        rows: usize,
    ) -> Result<(), Error> {
        if let Some(high) = self.unread {
            let page = messages.newest_first_from_level(self.name, low, high, rows, level);
            let page = page.await?;
            self.read = page.messages.into_iter();
            self.unread = page.next;
        }
        Ok(())
    }
}
