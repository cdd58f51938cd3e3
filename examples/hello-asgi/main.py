from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Person(BaseModel):
    name: str
    age: int


@app.get("/hello-asgi")
async def hello(name: str = "world") -> dict:
    return {"message": f"Hello, {name}!"}


@app.post("/hello-asgi/people", status_code=201)
async def add(person: Person) -> dict:
    return {"message": f"Hello, {person.name}!", "next_year": person.age + 1}
