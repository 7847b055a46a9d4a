//! What filters of the Gateway API do to a request.

use std::sync::Arc;

use super::Backends;
use crate::resource::gateway_api::{
    self, GrpcFilter, HeaderModifier, HttpFilter, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::resource::value::Percent;
use crate::route::header_ops::host_of_modifier;
use crate::route::{Action, Cors, HeaderOps, Mirror, Redirect, Rewrite};

/// A filter of any kind of route.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filter<'f> {
    Request(&'f HeaderModifier),
    Response(&'f HeaderModifier),
    Mirror(&'f RequestMirror),
    Redirect(&'f RequestRedirect),
    Rewrite(&'f UrlRewrite),
    Cors(&'f gateway_api::Cors),
    /// One of somebody else's: nothing may get past it.
    Foreign,
}

/// What several filters come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Effects {
    pub(super) headers: HeaderOps,
    /// The host that the request gets.
    pub(super) host: Option<Arc<str>>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<Cors>,
    redirect: Option<Redirect>,
    is_foreign: bool,
}

impl<'f> From<&'f HttpFilter> for Filter<'f> {
    fn from(filter: &'f HttpFilter) -> Self {
        match filter {
            HttpFilter::RequestHeaderModifier(it) => Self::Request(it),
            HttpFilter::ResponseHeaderModifier(it) => Self::Response(it),
            HttpFilter::RequestMirror(it) => Self::Mirror(it),
            HttpFilter::RequestRedirect(it) => Self::Redirect(it),
            HttpFilter::UrlRewrite(it) => Self::Rewrite(it),
            HttpFilter::Cors(it) => Self::Cors(it),
            HttpFilter::ExternalAuth(_) | HttpFilter::ExtensionRef(_) => Self::Foreign,
        }
    }
}

impl<'f> From<&'f GrpcFilter> for Filter<'f> {
    fn from(filter: &'f GrpcFilter) -> Self {
        match filter {
            GrpcFilter::RequestHeaderModifier(it) => Self::Request(it),
            GrpcFilter::ResponseHeaderModifier(it) => Self::Response(it),
            GrpcFilter::RequestMirror(it) => Self::Mirror(it),
            GrpcFilter::ExtensionRef(_) => Self::Foreign,
        }
    }
}

impl Effects {
    /// Those of filters in any order; each but the mirror is there once at most.
    pub(super) fn of(filters: &[Filter<'_>], backends: &dyn Backends) -> Self {
        let mut effects = Self::default();
        let (mut request, mut response) = (None, None);
        for filter in filters {
            match *filter {
                Filter::Request(modifier) => request = Some(modifier),
                Filter::Response(modifier) => response = Some(modifier),
                Filter::Mirror(mirror) => effects.mirrors.extend(self::mirror(mirror, backends)),
                Filter::Redirect(redirect) => effects.redirect = Some(Redirect::of_filter(redirect)),
                Filter::Rewrite(rewrite) => effects.add_rewrite(rewrite),
                Filter::Cors(cors) => effects.cors = Some(Cors::of_filter(cors)),
                Filter::Foreign => effects.is_foreign = true,
            }
        }
        effects.headers = HeaderOps::of_modifiers(request, response);
        effects.host = effects.host.or_else(|| request.and_then(host_of_modifier));
        effects
    }

    /// What is done with a request that goes nowhere.
    pub(super) fn ends(&self) -> Option<Action> {
        if self.is_foreign {
            return Some(super::refused());
        }
        self.redirect.clone().map(|redirect| Action::Redirect(Box::new(redirect)))
    }

    /// Whether nothing but headers and the host differ.
    pub(super) fn are_of_headers(&self) -> bool {
        self.ends().is_none() && self.rewrite.is_none() && self.mirrors.is_empty() && self.cors.is_none()
    }

    /// These, and then those of a backend.
    pub(super) fn then(&self, own: &Self) -> Self {
        Self {
            headers: self.headers.then(&own.headers),
            host: own.host.clone().or_else(|| self.host.clone()),
            rewrite: own.rewrite.clone().or_else(|| self.rewrite.clone()),
            mirrors: self.mirrors.iter().chain(&own.mirrors).cloned().collect(),
            cors: own.cors.clone().or_else(|| self.cors.clone()),
            redirect: None,
            is_foreign: false,
        }
    }

    fn add_rewrite(&mut self, rewrite: &UrlRewrite) {
        self.host = rewrite.hostname.as_ref().map(|host| Arc::from(&**host));
        self.rewrite = rewrite.path.as_ref().map(|path| match path {
            PathModifier::ReplaceFullPath(path) => Rewrite::Whole((&**path).into()),
            PathModifier::ReplacePrefixMatch(path) => Rewrite::Segments((&**path).into()),
        });
    }
}

/// `None` for one that gets nothing, or must not.
fn mirror(mirror: &RequestMirror, backends: &dyn Backends) -> Option<Mirror> {
    let share = Percent::fraction(mirror.fraction.numerator, mirror.fraction.denominator.get())?;
    let to = backends.find(&mirror.backend)?;
    (share > Percent::default()).then_some(Mirror { to, share })
}
