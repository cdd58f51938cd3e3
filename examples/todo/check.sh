expect 200 '<title>To do</title>' /todo
expect 401 'nobody' /todo/api/overview
expect_output 'the to-do application works, end to end' examples/todo/drive.sh "$URL"
