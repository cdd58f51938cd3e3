"""Names, and the tokens that stand for them, in Redis."""

import json
import os
import secrets

import redis

store = redis.Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]), decode_responses=True)

DAY = 24 * 60 * 60


def answer(status, value):
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(value)}


def enter(event):
    """Makes a token for a name; a name that is new makes a user."""
    name = str(json.loads(event["body"] or "{}").get("name", "")).strip()
    if not 1 <= len(name) <= 64:
        return answer(400, {"error": "name: 1 to 64 characters"})
    store.hsetnx("names", name, secrets.token_hex(8))
    user = store.hget("names", name)
    token = secrets.token_urlsafe(24)
    store.set(f"token:{token}", json.dumps({"id": user, "name": name}), ex=DAY)
    return answer(201, {"id": user, "name": name, "token": token})


def me(event):
    """The user that the token of this call stands for."""
    scheme, _, token = event["headers"].get("authorization", "").partition(" ")
    found = store.get(f"token:{token}") if scheme.lower() == "bearer" and token else None
    if found is None:
        return answer(401, {"error": "this token is nobody's"})
    return answer(200, json.loads(found))


def handler(event, context):
    method = event["requestContext"]["http"]["method"]
    path = event["rawPath"]
    if method == "POST" and path.endswith("/users"):
        return enter(event)
    if method == "GET" and path.endswith("/me"):
        return me(event)
    return answer(404, {"error": f"nothing at {method} {path}"})
