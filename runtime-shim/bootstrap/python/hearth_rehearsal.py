"""The handler that a pooled instance is exercised with (hearth_exercise.py)."""


def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "text/plain"}, "body": event["rawPath"]}
