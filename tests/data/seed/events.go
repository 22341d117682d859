package main
import (
	"encoding/json"
	"log"
	"time"
	"golang.org/x/net/websocket"
)
type Event struct {
	Type string `json:"type"`
	Timestamp string `json:"timestamp"`
	Data map[string]interface{} `json:"data"`
}
func main() {
	origin := "http://localhost:7082"
	url := "ws://localhost:7082/api/v1/ws?token=your-token"
	ws, err := websocket.Dial(url, "", origin)
	if err != nil {
		log.Fatal(err)
	}
	defer ws.Close()
	// Heartbeat goroutine
	go func() {
		ticker := time.NewTicker(30 * time.Second)
		for range ticker.C {
			websocket.Message.Send(ws, "ping")
		}
	}()
	// Message handler
	for {
		var msg string
		if err := websocket.Message.Receive(ws, &msg); err != nil {
			log.Printf("Error receiving: %v", err)
			break
		}
		if msg == "pong" {
			continue
		}
		var event Event
		if err := json.Unmarshal([]byte(msg), &event); err != nil {
			log.Printf("Error parsing event: %v", err)
			continue
		}
		switch event.Type {
		case "backend.health":
			log.Printf("Backend %s: healthy=%v",
				event.Data["name"], event.Data["healthy"])
		case "connection.new":
			log.Printf("New connection: %s via %s",
				event.Data["host"], event.Data["backend"])
		case "stats.update":
			log.Printf("Active connections: %v",
				event.Data["active_connections"])
		}
	}
}
