#!/bin/sh
# Prints the Secrets that overlays/redis and overlays/tls need, new ones each time:
#
#   deploy/kustomize/make-secrets.sh FOLDER | kubectl apply --namespace extra-rl --filename -
#
# Writes the authority's key, certificates and the token to FOLDER, for you to keep; nothing there is overwritten. Needs
# openssl, kubectl and python3. Certificates are valid for a year; if you have cert-manager, let it make them.
set -eu
umask 077

folder=${1:?"usage: make-secrets.sh FOLDER"}
namespace=${NAMESPACE:-extra-rl}
mkdir "$folder"
cd "$folder"

secret() { kubectl create secret --dry-run=client --output yaml "$@" && echo ---; }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=extra-rl authority" \
  -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign \
  -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=extra-rl" -keyout tls.key -out tls.csr 2>/dev/null
# All names of the services, sixteen replicas of generation, and the pod itself, for its probes. A wildcard such as
# *.extra-rl-generation, with a single dot, is not accepted by clients.
names=DNS:localhost,IP:127.0.0.1
for service in generation novelty verification; do
  name=extra-rl-$service
  for domain in "" ".$namespace" ".$namespace.svc" ".$namespace.svc.cluster.local"; do
    names="$names,DNS:$name$domain"
    [ -z "$domain" ] || names="$names,DNS:*.$name$domain"
  done
done
for number in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  names="$names,DNS:extra-rl-generation-$number.extra-rl-generation"
done
printf 'subjectAltName=%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n' "$names" >extensions
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile extensions -out tls.crt 2>/dev/null
rm tls.csr extensions

# The callers get the token itself, the servers its hash.
python3 - <<'PYTHON'
import hashlib, json, secrets
token = "extra_rl_" + secrets.token_urlsafe(32)
entry = {"name": "training", "sha256": hashlib.sha256(token.encode()).hexdigest(), "scopes": {"*": "admin"}}
open("token", "w").write(token)
open("tokens.json", "w").write(json.dumps([entry]))
PYTHON
openssl rand -hex 32 | tr -d '\n' >redis-password

secret generic extra-rl-tls --from-file=tls.crt --from-file=tls.key --from-file=ca.crt
secret generic extra-rl-tokens --from-file=tokens.json
secret generic extra-rl-client --from-file=token --from-file=ca.crt
secret generic extra-rl-redis --from-file=password=redis-password
