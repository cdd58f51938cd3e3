import base64
import io

from PIL import Image, UnidentifiedImageError


def handler(event, context):
    query = event.get("queryStringParameters") or {}
    size = max(16, min(int(query.get("size", "128")), 1024))
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    try:
        picture = Image.open(io.BytesIO(body))
        picture.thumbnail((size, size))
    except UnidentifiedImageError:
        return {"statusCode": 415, "body": "Send a picture that Pillow can read.\n"}
    print(f"thumbnail of {len(body)} bytes: {picture.width}x{picture.height}")
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=85)
    return {
        "statusCode": 200,
        "headers": {"content-type": "image/jpeg", "x-size": f"{picture.width}x{picture.height}"},
        "body": base64.b64encode(out.getvalue()).decode(),
        "isBase64Encoded": True,
    }
