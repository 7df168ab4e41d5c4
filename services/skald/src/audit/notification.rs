//! The notification database: who was told what, and whether it arrived.
//!
//! Never here: the notification service's own code, or what the texts say. From here the flow goes to `across.rs`, which holds
//! notifications against the ends of orders.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    order::Outcome,
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{hashed, id, int, shown, text},
};

/// The fold of one notification's stream.
#[derive(Clone, Debug)]
pub(super) struct Notification {
    pub order: u128,
    pub customer: u128,
    pub outcome: Option<Outcome>,
    status: &'static str,
    version: i64,
    attempts: i64,
    /// Digest of why it was given up.
    reason: Option<u64>,
    /// The row that queued it.
    queued: u128,
    has_row: bool,
}

#[derive(Default)]
pub(super) struct Notifications {
    pub notifications: HashMap<u128, Notification>,
}

impl Notifications {
    pub(super) async fn read(snapshot: &mut Snapshot, trails: &mut Trails, laws: &mut Laws) -> Result<Self, sqlx::Error> {
        let mut notifications = Self::default();
        trails.walk(snapshot, laws, |laws, entry| notifications.take(laws, entry)).await?;
        notifications.read_notifications(snapshot, laws).await?;
        Ok(notifications)
    }

    fn take(&mut self, laws: &mut Laws, entry: &Entry) {
        let known = match entry.subject() {
            Some(("notification", notification_id)) if id(&entry.data, "notification_id") == notification_id => {
                self.notification(notification_id, entry)
            }
            _ => false,
        };
        laws.check(Id::PayloadsReadable, known, || format!("notification: {} in the stream {}", entry.kind, entry.stream));
    }

    /// Takes the next row of a stream; tells whether it may stand there.
    fn notification(&mut self, notification_id: u128, entry: &Entry) -> bool {
        let data = &entry.data;
        if entry.kind == "notification.NotificationQueued" {
            let queued = Notification {
                order: id(data, "order_id"),
                customer: id(data, "customer_id"),
                outcome: outcome(text(data, "template")),
                status: "queued",
                version: entry.version,
                attempts: 0,
                reason: None,
                queued: entry.id,
                has_row: false,
            };
            return self.notifications.insert(notification_id, queued).is_none();
        }
        let Some(known) = self.notifications.get_mut(&notification_id) else { return false };
        let before = known.status;
        (known.version, known.attempts) = (entry.version, int(data, "attempts"));
        match entry.kind.as_str() {
            "notification.NotificationDelivered" => known.status = "delivered",
            "notification.NotificationGivenUp" => {
                (known.status, known.reason) = ("given_up", Some(hashed(text(data, "reason"))));
            }
            _ => return false,
        }
        before == "queued" && id(data, "order_id") == known.order
    }

    async fn read_notifications(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        type Row = (Uuid, Uuid, Uuid, String, String, i64, Option<String>, Option<i64>, Uuid, i64);
        pages!(
            snapshot,
            Row,
            "SELECT notification_id, order_id, customer_id, template, status, attempts, reason, due_us, queued_id, version \
             FROM notifications WHERE notification_id > $1 ORDER BY notification_id LIMIT $2",
            Uuid::nil(),
            |(notification_id, order, customer, template, status, attempts, reason, due, queued_id, version)| {
                let queued = status == "queued";
                let known = self.notifications.get_mut(&notification_id.as_u128());
                let same = known.is_some_and(|known| {
                    known.has_row = true;
                    let ids = [order, customer, queued_id].map(|id| id.as_u128());
                    (ids, known.outcome) == ([known.order, known.customer, known.queued], outcome(&template))
                        && (known.status, known.version) == (status.as_str(), version)
                        // Attempts that came to nothing are no rows of the log, until the last one.
                        && (queued || known.attempts == attempts)
                        && (known.reason.is_none() || known.reason == reason.map(|reason| hashed(&*reason)))
                });
                laws.check(Id::NotificationsMatchLog, same, || format!("notification {notification_id}"));
                laws.check(Id::OpenHasDeadline, queued == due.is_some(), || {
                    format!("notification {notification_id} is {status}, it is due at {due:?}")
                });
                laws.check(Id::NoQueuedNotification, !queued, || format!("notification {notification_id} of order {order}"));
            }
        );
        for (notification_id, _) in self.notifications.iter().filter(|(_, known)| !known.has_row) {
            laws.check(Id::NotificationsMatchLog, false, || format!("notification {} has no row", shown(*notification_id)));
        }
        Ok(())
    }
}

/// The end that a template tells of.
fn outcome(template: &str) -> Option<Outcome> {
    match template {
        "order_confirmed" => Some(Outcome::Confirmed),
        "order_cancelled" => Some(Outcome::Cancelled),
        _ => None,
    }
}
