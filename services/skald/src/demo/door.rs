//! What the demo asks of the shop before and after the load: a catalogue, customers, an order's history. All through REST.
//!
//! Never here: orders; `load.rs` places them. From here ids and access tokens go to the clients, the history to `story.rs`.

use bytes::Bytes;
use contract::{OrderId, ProductId};
use hyper::{Method, StatusCode, header::HeaderValue};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Error,
    client::{Client, Doors, IDEMPOTENCY_KEY, Reply, uri},
    mix::{Catalogue, HOT, PLENTIFUL, hot_stock},
};

/// An order asks for at most nine pieces; nobody should be refused a plentiful product.
const PIECES_AN_ORDER: u32 = 10;

const TEAS: [&str; PLENTIFUL] = [
    "Assam",
    "Ceylon",
    "Darjeeling",
    "Dian Hong",
    "Earl Grey",
    "Genmaicha",
    "Gunpowder",
    "Gyokuro",
    "Hojicha",
    "Jasmine",
    "Keemun",
    "Kukicha",
    "Lapsang Souchong",
    "Longjing",
    "Matcha",
    "Nilgiri",
    "Oolong",
    "Peppermint",
    "Pu-erh",
    "Rooibos",
    "Sencha",
    "Shou Mei",
    "Tieguanyin",
    "White Peony",
];
const RARITIES: [&str; HOT] = ["Iron cauldron", "Rune stone", "Drinking horn"];

/// One caller of the shop.
pub(crate) struct Door {
    client: Client,
    /// Makes keys, e-mails and article numbers of this run its own, so that a data directory can be used again.
    run: String,
}

#[derive(Deserialize)]
struct Created {
    id: ProductId,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
}

impl Door {
    pub(crate) fn anonymous(doors: &Doors, run: &str) -> Self {
        Self { client: Client::new(doors.clone(), None), run: run.to_owned() }
    }

    /// The caller of an account.
    pub(crate) async fn login(doors: &Doors, run: &str, email: &str, password: &str) -> Result<Self, Error> {
        let token = Self::anonymous(doors, run).token(email, password).await?;
        Ok(Self { client: Client::new(doors.clone(), Some(&token)), run: run.to_owned() })
    }

    async fn token(&mut self, email: &str, password: &str) -> Result<String, Error> {
        let tokens: Tokens = self.post("/v1/login", "", &json!({"email": email, "password": password})).await?;
        Ok(tokens.access_token)
    }

    /// Registers customers `from`, `from + 2` … and gives their access tokens.
    pub(crate) async fn customers(&mut self, from: u32, until: u32) -> Result<Vec<String>, Error> {
        let mut tokens = Vec::new();
        for number in (from..until).step_by(2) {
            let email = format!("customer-{number}-{}@shop.example", self.run);
            let password = format!("{}-{number}", self.run);
            let account = json!({"email": email, "password": password, "name": format!("Customer {number}")});
            let _: Value = self.post("/v1/register", &email, &account).await?;
            tokens.push(self.token(&email, &password).await?);
        }
        Ok(tokens)
    }

    /// Loads the catalogue; for admins.
    pub(crate) async fn catalogue(&mut self, orders: u32) -> Result<Catalogue, Error> {
        let mut catalogue = Catalogue::default();
        let plentiful = orders.saturating_mul(PIECES_AN_ORDER).min(1_000_000_000);
        for (number, title) in TEAS.iter().enumerate() {
            let price = 390 + 45 * number;
            catalogue.plentiful.push(self.product(&format!("TEA-{number}"), title, "tea", price, plentiful).await?);
        }
        for (number, title) in RARITIES.iter().enumerate() {
            let sku = format!("RARE-{number}");
            catalogue.hot.push(self.product(&sku, title, "rarities", 19_900, hot_stock(orders)).await?);
        }
        Ok(catalogue)
    }

    async fn product(&mut self, sku: &str, title: &str, category: &str, price: usize, stock: u32) -> Result<String, Error> {
        let sku = format!("{sku}-{}", self.run);
        let price = json!({"amount_minor": price, "currency": "EUR"});
        let product = json!({"sku": sku, "title": title, "category": category, "price": price, "stock": stock});
        let created: Created = self.post("/v1/products", &sku, &product).await?;
        Ok(created.id.to_string())
    }

    /// The rows of an order's saga, newest first.
    pub(crate) async fn history(&mut self, order: OrderId) -> Result<Value, Error> {
        let path = format!("/v1/orders/{order}/history?limit=100");
        let answer = self.client.get(&path).await;
        read(format!("GET {path}"), answer)
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, key: &str, body: &Value) -> Result<T, Error> {
        let key = HeaderValue::try_from(format!("{}-{key}", self.run)).expect("keys are plain ASCII");
        let headers = [(IDEMPOTENCY_KEY, key)];
        let answer = self.client.send(Method::POST, uri(path), headers, Bytes::from(body.to_string())).await;
        read(format!("POST {path}"), answer)
    }
}

fn read<T: DeserializeOwned>(request: String, answer: Result<Reply, super::client::NoAnswer>) -> Result<T, Error> {
    let reply = match answer {
        Ok(reply) => reply,
        Err(source) => return Err(Error::NoAnswer { request, source }),
    };
    let body = match reply.status {
        StatusCode::OK | StatusCode::CREATED => serde_json::from_slice(&reply.body).ok(),
        _ => None,
    };
    body.ok_or_else(|| {
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        Error::Unexpected { request, status: reply.status.as_u16(), body }
    })
}
