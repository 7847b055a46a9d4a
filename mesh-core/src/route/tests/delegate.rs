//! Rules that are left to another VirtualService.

use super::mesh::check;

#[test]
fn what_both_ask_for_must_hold() {
    check(
        "
        vs default/root
        hosts: [reviews]
        http:
        - name: root
          match: [{name: r, uri: {prefix: /a}, headers: {x: {}}}, {uri: {prefix: /b}}]
          delegate: {name: leaf, namespace: team}
        - match: [{uri: {exact: /gone}}]
          delegate: {name: nobody}
        - match: [{uri: {exact: /hidden}}]
          delegate: {name: hidden, namespace: team}
        - match: [{uri: {prefix: /own}}]
          delegate: {name: own}
        - route: [{destination: {host: rest}}]
        vs team/leaf
        exportTo: [default]
        http:
        - name: leaf
          match: [{name: l, uri: {exact: /a/1}}]
          route: [{destination: {host: one}}]
        - match: [{uri: {prefix: /c}}]
          route: [{destination: {host: never}}]
        - match: [{uri: {regex: '/a/2'}}]
          route: [{destination: {host: never}}]
        - match: [{uri: {prefix: /b/1}}, {uri: {prefix: /c}}]
          route: [{destination: {host: never}}]
        - match: [{method: {exact: PUT}}]
          route: [{destination: {host: put}}]
        - route: [{destination: {host: leaf}}]
        vs team/hidden
        exportTo: ['.']
        http:
        - route: [{destination: {host: never}}]
        vs default/own
        http:
        - route: [{destination: {host: own}}]",
        "
        delegate-both      | default | GET http://reviews/a/1 ; x: 1 | root-leaf.r-l: one.team
        delegate-root-only | default | GET http://reviews/a/1        | rest
        delegate-prefix    | default | GET http://reviews/a/12 ; x: 1 | root.r: leaf.team
        delegate-conflict  | default | GET http://reviews/c           | rest
        delegate-regex     | default | GET http://reviews/a/2 ; x: 1  | root.r: leaf.team
        delegate-half      | default | GET http://reviews/b/1         | root: leaf.team
        delegate-method    | default | PUT http://reviews/b           | root: put.team
        delegate-method-2  | default | PUT http://reviews/a ; x: 2    | root.r: put.team
        delegate-missing   | default | GET http://reviews/gone        | rest
        delegate-hidden    | default | GET http://reviews/hidden      | rest
        delegate-own       | default | GET http://reviews/own         | own",
    );
}

#[test]
fn the_root_says_what_the_delegate_does_not() {
    check(
        "
        vs default/root
        hosts: [reviews]
        http:
        - match: [{uri: {prefix: /a}}]
          rewrite: {uri: /whole}
          delegate: {name: leaf}
        - match: [{uri: {prefix: /b}}]
          directResponse: {status: 503}
          delegate: {name: leaf}
        vs default/leaf
        http:
        - match: [{headers: {own: {}}}]
          rewrite: {uri: /leaf}
          route: [{destination: {host: own}}]
        - route: [{destination: {host: leaf}}]",
        "
        inherited      | default | GET http://reviews/a/1          | leaf /whole/1
        not-inherited  | default | GET http://reviews/a/1 ; own: 1 | own /leaf/1
        acts-itself    | default | GET http://reviews/b            | leaf",
    );
}

#[test]
fn who_a_delegates_rule_is_for() {
    check(
        "
        vs default/root
        hosts: [reviews]
        http:
        - match: [{sourceLabels: {app: x}, sourceNamespace: default, port: 9080}]
          delegate: {name: leaf, namespace: team}
        - match: [{sourceNamespace: other}]
          delegate: {name: leaf, namespace: team}
        vs team/leaf
        http:
        - match: [{sourceLabels: {tier: web}, sourceNamespace: default}]
          route: [{destination: {host: web}}]
        - match: [{sourceLabels: {app: y}, sourceNamespace: default}]
          route: [{destination: {host: never}}]
        - match: [{port: 9081, sourceNamespace: default}]
          route: [{destination: {host: never}}]
        - route: [{destination: {host: rest}}]",
        "
        source-both      | default app=x,tier=web | GET http://reviews:9080/         | web.team
        source-root      | default app=x          | GET http://reviews:9080/         | rest.team
        source-leaf      | default tier=web       | GET http://reviews:9080/         | no table
        source-port      | default app=x          | GET http://reviews:9081/         | no table
        source-namespace | other                  | GET http://reviews.default:9081/ | rest.team",
    );
}
