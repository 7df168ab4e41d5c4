//! Puts the services' routes behind one door, with probes, metrics and documentation beside them.
//!
//! Never here: what a route does. The `Router` that comes out goes to [`super::serve`], or into a test by `oneshot`.

use std::{collections::HashMap, sync::Arc};

use axum::{Extension, Router, http::header, middleware, response::IntoResponse, routing::get};
use eventlog::Env;

use super::{Check, Stopping, docs, layer, probe, room::Room};
use crate::{
    auth::Verifier,
    metrics::{Metrics, Route},
};

/// The routes of one service with their documentation, state applied.
pub type Routes = utoipa_axum::router::OpenApiRouter<()>;

/// What one door is made of.
pub struct AppConfig {
    /// The title of the documentation.
    pub title: &'static str,
    /// Each service's name, which is the `job` label of its requests, and its routes.
    pub services: Vec<(&'static str, Routes)>,
    pub verifier: Verifier,
    pub metrics: Metrics,
    pub health: Vec<Check>,
    pub env: Env,
}

/// The same under its short name.
pub type App = AppConfig;

const OWN_PATHS: [&str; 9] = [
    "/livez",
    "/readyz",
    "/health",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/docs.js",
    "/docs/docs.css",
    "/docs/errors/{code}",
];

/// One router for all services: their routes, probes, metrics and documentation, with the layers around every request.
pub fn app(config: AppConfig) -> Router {
    let mut routes: HashMap<String, Route> = OWN_PATHS.iter().map(|path| ((*path).to_owned(), Route::own(path))).collect();
    let mut router = Router::new();
    let mut documents = Vec::new();
    for (service, part) in config.services {
        let (part, document) = part.split_for_parts();
        routes.extend(document.paths.paths.keys().map(|path| (path.clone(), Route::new(service, path))));
        documents.push((service, document));
        router = router.merge(part);
    }
    let checks = Arc::new(config.health);
    let (for_readiness, for_health) = (checks.clone(), checks);
    let metrics = config.metrics.clone();
    router = router
        .route("/livez", get(probe::livez))
        .route("/readyz", get(move |stopping: Option<Extension<Stopping>>| probe::readyz(for_readiness.clone(), stopping)))
        .route("/health", get(move |stopping: Option<Extension<Stopping>>| probe::health(for_health.clone(), stopping)))
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.read().await).into_response()),
        )
        .merge(docs::routes(config.title, documents));
    let around = layer::Around {
        room: Room::new(config.env.memory()),
        env: config.env,
        verifier: config.verifier,
        metrics: config.metrics.http(),
        routes,
        unknown: Route::own("unknown"),
    };
    router.layer(middleware::from_fn_with_state(Arc::new(around), layer::around))
}
