from flask import Flask, request

app = Flask(__name__)


@app.get("/hello-wsgi")
def hello():
    return {"message": f"Hello, {request.args.get('name', 'world')}!"}


@app.post("/hello-wsgi/length")
def length():
    return {"bytes": len(request.get_data())}
