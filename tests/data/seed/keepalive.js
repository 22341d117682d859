const ws = new WebSocket('ws://localhost:7082/api/v1/ws?token=your-token');
// Send ping every 30 seconds
setInterval(() => {
  if (ws.readyState === WebSocket.OPEN) {
    ws.send('ping');
  }
}, 30000);
ws.onmessage = (event) => {
  if (event.data === 'pong') {
    console.log('Keep-alive acknowledged');
    return;
  }
  // Handle other messages
  const data = JSON.parse(event.data);
  handleEvent(data);
};
